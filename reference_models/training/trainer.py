"""Subclass of transformers' Trainer: parameter groups, scores, both losses in the log, and exact resume."""

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import EvalPrediction, ProgressCallback, Trainer, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput
from transformers.utils import SAFE_WEIGHTS_NAME

from reference_models.analysis.modality_gap import gap_scores
from reference_models.config import TrainingConfig
from reference_models.encoders.dropout import FastDropout, replace_dropout
from reference_models.encoders.text import checkpoint_activations
from reference_models.errors import UserError
from reference_models.files import read_json, readable, writable
from reference_models.systems.base import System, SystemOutput
from reference_models.tasks.dataset import EncodedSplit
from reference_models.training.checkpoints import (
    ADVICE,
    PARTIAL,
    StepCheckpoints,
    check_checkpoint,
    checkpoint_folder,
    finish_checkpoint,
)
from reference_models.training.divergence import check_finite, largest_weight
from reference_models.training.early_stop import EarlyStop, is_exhausted
from reference_models.training.embeddings import write_used_rows
from reference_models.training.evaluation import score
from reference_models.training.loggers import check_logger, make_logger
from reference_models.training.optimizer import inverse_schedule, make_optimizer, parameter_groups
from reference_models.training.products import check_products
from reference_models.training.progress import Bars, EpochLines
from reference_models.training.sampling import EpochSampler

LOSSES = ("task_loss", "semantic_loss")
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup", "inverse": "constant"}
COMPARED = 64  # maximum number of validation samples for the modality gap after each epoch


def training_arguments(settings: TrainingConfig, folder: Path) -> TrainingArguments:
    """Return the arguments of Trainer, with one evaluation and one checkpoint per epoch; initialise the process group.

    Raises:
        UserError: If the precision is not supported on this machine, or the logger is not installed.
    """
    check_logger(settings.log_to)
    has_accelerator = torch.accelerator.is_available()
    if settings.precision == "fp16" and not has_accelerator:
        raise UserError('training.precision: "fp16" needs an accelerator, and none was found; use "bf16" or "fp32"')
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=4 * settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,
        lr_scheduler_type=SCHEDULES[settings.schedule],
        max_grad_norm=settings.clip or math.inf,  # 0 would also disable the check of the norm
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        use_cpu=not has_accelerator,
        seed=settings.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model="f1",
        greater_is_better=True,
        logging_strategy="epoch",
        logging_nan_inf_filter=False,  # `_clip_grad_norm` stops at the first such loss
        report_to="none",
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=torch.cuda.is_available(),
        dataloader_num_workers=settings.workers,
    )
    # Accessing `n_gpu` initialises the process group. Use one accelerator per process: DataParallel would split the
    # mini-batch that AttnMixup mixes.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def check_training(model: System, settings: TrainingConfig, device: torch.device) -> None:
    """Check that the training settings suit the system and the device, before a run directory is created.

    Raises:
        UserError: If a setting needs a text encoder that the system lacks, a learning rate matches no parameter, or
            faster products lose accuracy.
    """
    if (settings.compile or settings.gradient_checkpointing) and model.text_encoder is None:
        raise UserError(
            "training.compile and training.gradient_checkpointing need a system with a text encoder from "
            "transformers, and this system has none; remove these settings"
        )
    _groups(model, settings)
    if settings.fast_float32:
        check_products(device)


def _groups(model: System, settings: TrainingConfig) -> list[dict[str, Any]]:
    return parameter_groups(
        model,
        model.learning_rates() | settings.learning_rates,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        decay_all=settings.decay_all,
    )


class ExtractionTrainer(Trainer):
    """Trainer of a `System` on two `EncodedSplit`.

    Args:
        model: System to train.
        settings: Training settings that `check_training` accepts.
        arguments: Result of `training_arguments`.
        train: Training split.
        valid: Validation split.
        label: See `training.run.train`.
    """

    model: System
    train_dataset: EncodedSplit
    eval_dataset: EncodedSplit

    # `compute_loss` scales the loss, because Trainer would weight the mini-batches of a step equally, not by size.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: System,
        settings: TrainingConfig,
        arguments: TrainingArguments,
        train: EncodedSplit,
        valid: EncodedSplit,
        *,
        label: str | None = None,
    ) -> None:
        self.settings = settings
        self._folder = Path(str(arguments.output_dir))
        self._parts: dict[str, Tensor] = {}
        self._loss_of_step = torch.zeros(())
        self._clock, self._waited = time.perf_counter(), 0.0
        self._compared = EncodedSplit(valid.samples[:COMPARED], valid.processor, features=valid.features)
        if settings.fast_dropout:
            replace_dropout(model, FastDropout)
        if model.text_encoder is not None and settings.compile:
            model.text_encoder.compile(dynamic=True)
        if model.text_encoder is not None and settings.gradient_checkpointing:
            checkpoint_activations(model.text_encoder.body)
        if arguments.device.type == "cpu" and arguments.world_size == 1 and not settings.compile:
            write_used_rows(model)
        super().__init__(
            model,
            arguments,
            data_collator=train.processor.collate,
            train_dataset=train,
            eval_dataset=valid,
            compute_metrics=self._scores_of_validation,
            callbacks=[StepCheckpoints(settings.checkpoint_steps)] if settings.checkpoint_steps else None,
        )
        if settings.patience:
            self.add_callback(EarlyStop(settings.patience))
        if settings.log_to != "none":
            self.add_callback(make_logger(settings.log_to, self._folder.parent))
        self.remove_callback(ProgressCallback)
        self._bars = Bars()
        if label is None:
            self.add_callback(self._bars)
        self.add_callback(EpochLines("" if label is None else f"{label}: "))

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train, or resume from a checkpoint. The progress bars are always closed, so that a message starts a new line.

        Raises:
            UserError: If the checkpoint is damaged or incomplete, or the training diverges.
        """
        if isinstance(resume_from_checkpoint, str):
            check_checkpoint(resume_from_checkpoint)
            state = read_json(Path(resume_from_checkpoint) / TRAINER_STATE_NAME, ADVICE)
            if self.settings.patience and is_exhausted(state["log_history"], self.settings.patience):
                # The training had stopped early, and was killed before the run was finished.
                self.state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
                self._load_from_checkpoint(resume_from_checkpoint)
                return TrainOutput(self.state.global_step, 0.0, {})
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            self._bars.close()

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create AdamW or SGD for `parameter_groups`."""
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.settings, _groups(self.model, self.settings))
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the learning rate schedule; Trainer itself does not support "inverse"."""
        if self.lr_scheduler is None and self.settings.schedule == "inverse":
            steps = num_training_steps / self.settings.epochs
            warm = self.args.get_warmup_steps(num_training_steps)
            factor = partial(inverse_schedule, steps_per_epoch=steps, warmup_steps=warm)
            self.lr_scheduler = LambdaLR(optimizer or self.create_optimizer(), factor)
        return super().create_scheduler(num_training_steps, optimizer)

    def get_batch_samples(self, *args: Any) -> tuple[list[dict[str, Tensor]], Any]:
        """Get the mini-batches of a step; count their samples and the time spent waiting for them."""
        start = time.perf_counter()
        batches, items = super().get_batch_samples(*args)
        self._waited += time.perf_counter() - start
        self._samples_of_step = sum(len(batch["input_ids"]) for batch in batches)
        return batches, items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, SystemOutput]:
        """Compute the loss; in training, scale it by the mini-batch's share of the step and store its parts to log."""
        outputs = model(**inputs)
        loss = outputs.loss
        if model.training:
            share = len(inputs["input_ids"]) / self._samples_of_step
            loss = share * loss
            parts = {name: outputs[name] for name in LOSSES if outputs.get(name) is not None}
            parts |= outputs.get("own_losses") or {}
            for name, part in {**parts, "steps": torch.ones_like(loss)}.items():
                self._parts[name] = self._parts.get(name, 0) + share * part.detach()
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run one mini-batch forward and backward. `_clip_grad_norm` checks its loss together with the gradients."""
        loss = super().training_step(*args, **kwargs)
        self._loss_of_step = self._loss_of_step + loss
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Compute scores and loss on the validation split.

        Raises:
            UserError: If the weights or the loss are not finite.
        """
        self._check(largest_weight(self.model), "a weight")
        metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        self._check(metrics["eval_loss"], "the loss on validation after the epoch")
        return metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add to the log the mean of each loss part since the last training entry, and the seconds so far.

        `waited` is the fraction of the training time that steps waited for their mini-batches.
        """
        now = time.perf_counter()
        passed = now - self._clock
        if "loss" in logs:
            steps = self._parts.pop("steps")
            for name, part in self._parts.items():
                logs[name] = self.accelerator.reduce(part / steps, "mean").item()
            self._parts = {}
            logs["waited"], self._waited = self._waited / passed, 0.0
        before = self.state.log_history[-1]["seconds"] if self.state.log_history else 0.0
        logs["seconds"] = before + passed
        self._clock = now
        super().log(logs, *args, **kwargs)

    def load_best(self) -> None:
        """Load the weights of the best epoch on the validation split."""
        self._load_from_checkpoint(
            str(checkpoint_folder(self._folder, self.state.best_global_step or self.state.global_step))
        )
        self.accelerator.wait_for_everyone()

    def _check(self, value: float | Tensor, what: str, *, step: int | None = None) -> None:
        step = self.state.global_step if step is None else step
        check_finite(value, what, step=step, checkpoints=self._folder)

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        norm: Tensor = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        loss, self._loss_of_step = self._loss_of_step, torch.zeros(())
        # Overflowing gradients are normal in fp16: the scaler skips the step and lowers the scale.
        if not torch.stack([loss.to(norm.device), norm if self.accelerator.scaler is None else loss]).isfinite().all():
            step = self.state.global_step + 1
            self._check(loss, "the loss", step=step)
            self._check(norm, "the norm of the gradient", step=step)
        return norm

    def _scores_of_validation(self, prediction: EvalPrediction) -> dict[str, float]:
        scores = score(self.eval_dataset, np.asarray(prediction.predictions)).scores
        return scores | gap_scores(self.model, self._compared, self.settings.batch_size)

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> EpochSampler:
        # With length grouping, the order of Trainer's own sampler cannot be reproduced when an epoch is resumed.
        return EpochSampler(
            len(self.train_dataset),
            self.args.seed,
            lambda: int(self.state.epoch or 0),
            shuffle=self.settings.shuffle,
            lengths=self.train_dataset.lengths if self.settings.group_by_length else None,
            batch_size=self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
        )

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        # Trainer writes in place. After a kill it would accept a partial checkpoint as complete.
        self._check(largest_weight(self.model), "a weight")
        folder = self._folder
        partial = str(folder / PARTIAL)
        with writable(folder / PARTIAL):
            self.save_model(partial, _internal_call=True)
            self._save_optimizer_and_scheduler(partial)
            self._save_scaler(partial)
            self._save_rng_state(partial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            with writable(folder / PARTIAL):
                self.state.save_to_json(str(folder / PARTIAL / TRAINER_STATE_NAME))
                finish_checkpoint(folder, self.state.global_step, self.state.best_global_step)
        self.accelerator.wait_for_everyone()

    def _save_rng_state(self, output_dir: str) -> None:
        # Also save what Trainer does not: the losses since the last log entry.
        super()._save_rng_state(output_dir)
        losses = {"loss": self._tr_loss, "logged": self._globalstep_last_logged, "parts": self._parts}
        torch.save(losses, self._losses_file(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any) -> None:
        with readable(Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME, ADVICE):
            super()._load_from_checkpoint(resume_from_checkpoint, *args)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with readable(Path(checkpoint or "") / OPTIMIZER_NAME, ADVICE):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        with readable(Path(checkpoint), ADVICE):
            super()._load_rng_state(checkpoint)
            losses = torch.load(self._losses_file(checkpoint), map_location="cpu", weights_only=True)
        self._tr_loss, self._globalstep_last_logged = losses["loss"].to(self.args.device), losses["logged"]
        self._parts = {name: part.to(self.args.device) for name, part in losses["parts"].items()}

    def _losses_file(self, folder: str) -> Path:
        return Path(folder) / f"losses_{self.args.process_index}.pt"
