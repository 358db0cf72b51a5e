"""transformers' Trainer with our parameter groups, our scores, and both losses in the log."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EvalPrediction, Trainer, TrainingArguments

from reference_models.config import TrainingConfig
from reference_models.data.dataset import EncodedSplit
from reference_models.models.base import Extractor, ExtractorOutput
from reference_models.training.evaluation import score
from reference_models.training.optimizer import parameter_groups

LOSSES = ("task_loss", "semantic_loss")


def training_arguments(settings: TrainingConfig, folder: Path) -> TrainingArguments:
    """The Trainer's own settings: one evaluation and checkpoint an epoch, the best epoch on validation wins."""
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=4 * settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        seed=settings.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="f1",
        logging_strategy="epoch",
        report_to="none",
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=torch.cuda.is_available(),
        dataloader_num_workers=settings.workers,
    )


class ExtractionTrainer(Trainer):
    """Trains an `Extractor` on `EncodedSplit`s.

    Args:
        model: what to train.
        settings: how.
        folder: for checkpoints.
        train, valid: the splits.
    """

    def __init__(
        self,
        model: Extractor,
        settings: TrainingConfig,
        folder: Path,
        train: EncodedSplit,
        valid: EncodedSplit,
    ) -> None:
        self.settings = settings
        self._sums: dict[str, list[torch.Tensor]] = {name: [] for name in LOSSES}
        super().__init__(
            model,
            training_arguments(settings, folder),
            data_collator=train.processor.collate,
            train_dataset=train,
            eval_dataset=valid,
            compute_metrics=self._scores_of_validation,
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over `parameter_groups`."""
        settings = self.settings
        if self.optimizer is None:
            groups = parameter_groups(
                self.model,
                learning_rate=settings.learning_rate,
                head_learning_rate=settings.head_learning_rate,
                weight_decay=settings.weight_decay,
            )
            self.optimizer = torch.optim.AdamW(groups, fused=True)
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any
    ) -> torch.Tensor | tuple[torch.Tensor, ExtractorOutput]:
        """The model's own loss; its parts are kept for the log."""
        outputs = model(**inputs)
        if model.training:
            for name in LOSSES:
                if outputs.get(name) is not None:
                    self._sums[name].append(outputs[name])
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the mean of each part of the loss since the last entry of the training log."""
        if "loss" in logs:
            for name, values in self._sums.items():
                if values:
                    logs[name] = torch.stack(values).mean().item()
                    values.clear()
        super().log(logs, *args, **kwargs)

    def _scores_of_validation(self, prediction: EvalPrediction) -> dict[str, float]:
        return score(self.eval_dataset, prediction.predictions).scores
