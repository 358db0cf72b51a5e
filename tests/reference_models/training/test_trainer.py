"""Learning rate schedule, optimizer steps, sample order, and which weights are kept."""

import json
import math
from collections.abc import Sequence
from functools import partialmethod
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from reference_models.config import RunConfig, TrainingConfig
from reference_models.data.formats import SPLITS
from reference_models.encoders.text import TextEncoder
from reference_models.errors import UserError
from reference_models.systems.build import build_system
from reference_models.tasks.dataset import EncodedSplit
from reference_models.training import embeddings
from reference_models.training.run import evaluate, make_processor, read_split, train
from reference_models.training.sampling import EpochSampler
from reference_models.training.trainer import ExtractionTrainer, training_arguments
from tests.reference_models.training.tiny_runs import (
    assert_same_run,
    config,
    encoder_without_dropout,
    history,
    tiny_set,
    weights,
)

STEPS = ("--training.checkpoint_steps", "4")
PLAIN = ("--model.attn_mixup", "false", "--model.head_dropout", "0", "--model.freeze_image_backbone", "true")


class StepRecorder(TrainerCallback):
    """Record the learning rates and gradients of every step, and the names of parameters without a gradient."""

    def __init__(self) -> None:
        self.rates: list[dict[str, float]] = []
        self.missed: set[str] = set()
        self.gradients: list[torch.Tensor] = []

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        self.rates.append({group["name"]: group["lr"] for group in optimizer.param_groups})
        self.missed |= {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
        parts = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        self.gradients.append(torch.cat(parts).clone())


def make_trainer(settings: RunConfig) -> ExtractionTrainer:
    set_seed(settings.training.seed)
    samples = {split: read_split(settings, split)[0] for split in SPLITS}
    processor = make_processor(settings, samples)
    train_split, valid = (EncodedSplit(samples[split], processor) for split in ("train", "valid"))
    arguments = training_arguments(settings.training, Path(settings.output))
    model = build_system(settings.system, settings.model, processor)
    return ExtractionTrainer(model, settings.training, arguments, train_split, valid)


def train_and_record(settings: RunConfig) -> tuple[StepRecorder, ExtractionTrainer]:
    trainer, kept = make_trainer(settings), StepRecorder()
    trainer.add_callback(kept)
    trainer.train()
    return kept, trainer


def test_linear_schedule_warms_up_and_decays_to_zero(data: Path, tmp_path: Path) -> None:
    kept, trainer = train_and_record(
        config(data, tmp_path, "--training.epochs", "6", "--training.learning_rates.text_encoder", "5e-4")
    )
    total = 6 * 48 // 8
    warm = math.ceil(0.06 * total)
    factors = [step / warm if step < warm else (total - step) / (total - warm) for step in range(total)]
    assert (warm, len(kept.rates)) == (3, total)
    for part, peak in (("text_encoder", 5e-4), ("others", 1e-3), ("head", 1e-2)):
        assert [rates[part] for rates in kept.rates] == pytest.approx([peak * factor for factor in factors])
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.0}
    assert kept.missed == set()


def test_row_wise_embedding_gradients_change_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, trainer = train_and_record(config(data, tmp_path / "plain", "--training.epochs", "2"))
    assert not any(module.sparse for module in trainer.model.modules() if isinstance(module, torch.nn.Embedding))
    monkeypatch.setattr(embeddings, "LEAST_WEIGHTS", 1)
    by_rows, trainer = train_and_record(config(data, tmp_path / "rows", "--training.epochs", "2"))
    assert all(module.sparse for module in trainer.model.modules() if isinstance(module, torch.nn.Embedding))
    assert all(map(torch.equal, by_rows.gradients, plain.gradients))


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("inverse", 1 / 1.1), ("cosine", None)])
def test_other_schedules_with_sgd(schedule: str, last: float | None, data: Path, tmp_path: Path) -> None:
    options = ("--training.optimizer", "sgd", "--training.schedule", schedule, "--training.clip", "0")
    kept, trainer = train_and_record(config(data, tmp_path, *options, "--training.epochs", "3"))
    steps, warm = 3 * 48 // 8, 2
    assert len(kept.rates) == steps
    assert [rates["others"] for rates in kept.rates][:3] == pytest.approx([0, 5e-4, 1e-3])
    if last is None:
        last = 0.5 * (1 + math.cos(math.pi * (steps - 1 - warm) / (steps - warm)))
    assert kept.rates[-1]["others"] == pytest.approx(1e-3 * last)
    assert isinstance(trainer.optimizer.optimizer, torch.optim.SGD)
    assert all(math.isfinite(entry["grad_norm"]) for entry in trainer.state.log_history if "grad_norm" in entry)


def test_gradients_longer_than_the_setting_are_clipped_to_it(tmp_path: Path) -> None:
    data = tiny_set(tmp_path, {"train": 48, "valid": 4, "test": 4})
    encoder = encoder_without_dropout(data, tmp_path / "encoder")
    rates = ("--training.learning_rate", "0", "--training.learning_rates.head", "0")
    options = (*PLAIN, *rates, "--model.text", str(encoder), "--training.epochs", "1")
    free, _ = train_and_record(config(data, tmp_path / "free", *options, "--training.clip", "0"))
    norms = [gradient.norm().item() for gradient in free.gradients]
    clip = (min(norms) + max(norms)) / 2  # some are longer, and some are not
    clipped, _ = train_and_record(config(data, tmp_path / "clipped", *options, "--training.clip", str(clip)))
    for norm, whole, gradient in zip(norms, free.gradients, clipped.gradients, strict=True):
        torch.testing.assert_close(gradient, whole * min(1.0, clip / norm), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("small", [2, 4])
def test_accumulation_gives_the_gradients_of_a_large_batch(tmp_path: Path, small: int) -> None:
    # 22 samples: the last step of an epoch has 6, which accumulation splits into 4 and 2 or 2, 2 and 2.
    data = tiny_set(tmp_path, {"train": 22, "valid": 4, "test": 4})
    encoder = encoder_without_dropout(data, tmp_path / "encoder")
    rates = ("--training.learning_rate", "0", "--training.learning_rates.head", "0")
    options = (*PLAIN, *rates, "--model.text", str(encoder), "--training.epochs", "2")
    large, whole = train_and_record(config(data, tmp_path / "large", *options, "--training.batch_size", "8"))
    batches = ("--training.batch_size", str(small), "--training.accumulation", str(8 // small))
    split, accumulated = train_and_record(config(data, tmp_path / "small", *options, *batches))
    assert len(large.gradients) == len(split.gradients) == 6
    for one, other in zip(large.gradients, split.gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    for entry, same in zip(whole.state.log_history, accumulated.state.log_history, strict=True):
        for name in {"loss", "task_loss", "semantic_loss", "grad_norm"} & entry.keys():
            assert same[name] == pytest.approx(entry[name], rel=1e-4), name


@pytest.mark.parametrize(("keep", "kept", "other"), [("best", 2, 3), ("last", 3, 2)])
def test_kept_epoch_is_saved_and_scored(
    keep: str, kept: int, other: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_epoch: list[dict[str, torch.Tensor]] = []

    def fake_scores(trainer: ExtractionTrainer, _: object) -> dict[str, float]:
        after_epoch.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        return {"f1": [0.2, 0.9, 0.9][len(after_epoch) - 1]}  # of equal scores, the first is the best

    monkeypatch.setattr(ExtractionTrainer, "_scores_of_validation", fake_scores)
    run = tmp_path / "run"
    metrics = train(config(data, run, *STEPS, "--training.keep", keep))
    saved = weights(run)
    assert metrics["kept_epoch"] == kept
    assert metrics["valid"]["f1"] == 0.9
    assert all(torch.equal(saved[name], after_epoch[kept - 1][name]) for name in saved)
    assert not all(torch.equal(saved[name], after_epoch[other - 1][name]) for name in saved)
    assert evaluate(run, config(data, run), "test").scores == metrics["test"]


def padded_size(batches: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)


def test_group_by_length_reduces_padding_and_keeps_all_samples(data: Path, tmp_path: Path) -> None:
    small = ("--training.batch_size", "2", "--training.group_by_length")
    trainers = [make_trainer(config(data, tmp_path, *small, flag)) for flag in ("true", "false")]
    lengths = trainers[0].train_dataset.lengths
    orders = [list(trainer.get_train_dataloader().batch_sampler) for trainer in trainers]
    for order in orders:
        assert sorted(i for batch in order for i in batch) == list(range(48))
    assert padded_size(orders[0], lengths) < padded_size(orders[1], lengths)
    batch = next(iter(trainers[0].get_train_dataloader()))
    assert batch["input_ids"].shape == (2, max(lengths))  # longest first, so that an out-of-memory error occurs at once


@pytest.mark.parametrize("lengths", [None, [i % 7 for i in range(50)]])
def test_order_depends_only_on_seed_and_epoch(lengths: list[int] | None) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        torch.rand(seed + 2)
        return list(EpochSampler(50, seed, lambda: epoch, lengths=lengths, batch_size=5))

    orders = [order(seed, epoch) for seed in range(4) for epoch in range(4)]
    assert all(one != other for one, other in combinations(orders, 2))
    assert order(3, 2) == order(3, 2)
    assert sorted(order(3, 2)) == list(range(50))


def test_without_shuffle_samples_keep_the_file_order(data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(config(data, tmp_path, "--training.shuffle", "false"))
    assert list(trainer._get_train_sampler()) == list(range(48))
    with pytest.raises(UserError, match=r"training\.group_by_length changes the order .* training\.shuffle"):
        TrainingConfig(shuffle=False, group_by_length=True)


def test_workers_do_not_change_the_run(data: Path, tmp_path: Path, finished: Path) -> None:
    train(config(data, tmp_path / "run", *STEPS, "--training.workers", "1"))
    assert_same_run(tmp_path / "run", finished)


def test_gradient_checkpointing_does_not_change_the_run(data: Path, tmp_path: Path, finished: Path) -> None:
    option = ("--training.gradient_checkpointing", "true")
    layers = make_trainer(config(data, tmp_path / "other", *option)).model.text_encoder.body.encoder.layer
    assert all(layer.gradient_checkpointing for layer in layers)
    train(config(data, tmp_path / "run", *STEPS, *option))
    assert_same_run(tmp_path / "run", finished)


def test_mixed_precision_is_used_only_in_training(data: Path, tmp_path: Path, finished: Path) -> None:
    run = tmp_path / "run"
    metrics = train(config(data, run, *STEPS, "--training.precision", "bf16"))
    saved, full = weights(run), weights(finished)
    assert {tensor.dtype for tensor in saved.values()} == {tensor.dtype for tensor in full.values()}
    assert not all(torch.equal(saved[name], full[name]) for name in saved)
    test = evaluate(run, config(data, run), "test")
    assert test.scores == metrics["test"]
    predictions = [json.loads(line)["predicted"] for line in (run / "predictions_test.jsonl").read_text().splitlines()]
    assert test.predictions == predictions


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_fp16_needs_an_accelerator(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs an accelerator"):
        train(config(data, tmp_path / "run", "--training.precision", "fp16"))
    assert not (tmp_path / "run").exists()


def test_share_of_time_waiting_for_data_is_logged(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    load, compute = EncodedSplit.__getitem__, ExtractionTrainer.compute_loss

    def slow_load(split: EncodedSplit, index: int) -> dict[str, Any]:
        clock[0] += 3
        return load(split, index)

    def slow_step(*args: Any, **kwargs: Any) -> Any:
        clock[0] += 6
        return compute(*args, **kwargs)

    monkeypatch.setattr("reference_models.training.trainer.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(EncodedSplit, "__getitem__", slow_load)
    monkeypatch.setattr(ExtractionTrainer, "compute_loss", slow_step)
    metrics = train(config(data, tmp_path / "run", *STEPS))
    entries = json.loads((tmp_path / "run" / "history.json").read_text())
    shares = [entry["waited"] for entry in entries if "loss" in entry]
    assert shares == pytest.approx([24 / 30] * 3)  # each step loads 8 samples in 3 s each and computes for 6 s
    assert metrics["waited"] == pytest.approx(0.8)


def test_compiled_text_encoder_gives_the_same_losses(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_without_dropout(data, tmp_path / "encoder")
    options = (*PLAIN, "--model.text", str(encoder), "--training.epochs", "1")
    monkeypatch.setattr(TextEncoder, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager"))
    torch._dynamo.utils.counters.clear()
    train(config(data, tmp_path / "plain", *options))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0
    train(config(data, tmp_path / "compiled", *options, "--training.compile", "true"))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    for plain, compiled in zip(history(tmp_path / "plain"), history(tmp_path / "compiled"), strict=True):
        assert compiled == pytest.approx(plain, rel=1e-3)
    torch.compiler.reset()


def test_fast_dropout_is_seeded_and_differs_from_plain_dropout(data: Path, tmp_path: Path) -> None:
    options = ("--training.epochs", "1", "--training.fast_dropout", "true")
    train(config(data, tmp_path / "plain", "--training.epochs", "1"))
    train(config(data, tmp_path / "one", *options))
    train(config(data, tmp_path / "two", *options))
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert history(tmp_path / "one")[0]["loss"] != history(tmp_path / "plain")[0]["loss"]
    assert history(tmp_path / "one")[0]["loss"] == pytest.approx(history(tmp_path / "plain")[0]["loss"], rel=0.2)
