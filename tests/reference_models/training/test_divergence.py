"""Training that diverges stops with one message and exit code 2, and keeps the last good checkpoint."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reference_models.cli import main
from reference_models.errors import UserError
from reference_models.training.checkpoints import last_checkpoint
from reference_models.training.folder import METRICS
from reference_models.training.run import CHECKPOINTS, train
from reference_models.training.trainer import ExtractionTrainer
from tests.reference_models.training.tiny_runs import arguments, config

STEPS = 6  # per epoch


def corrupt_loss(monkeypatch: pytest.MonkeyPatch, step: int, value: float) -> None:
    """Multiply the loss of a step, and thus its gradient, by `value`."""
    compute = ExtractionTrainer.compute_loss

    def corrupted(trainer: ExtractionTrainer, model: torch.nn.Module, *args: object, **kwargs: object) -> object:
        loss = compute(trainer, model, *args, **kwargs)
        return loss * value if trainer.state.global_step == step and model.training else loss

    monkeypatch.setattr(ExtractionTrainer, "compute_loss", corrupted)


def corrupt_gradient(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Set a gradient of a step to infinity while the loss is finite."""
    training_step = ExtractionTrainer.training_step

    def corrupted(trainer: ExtractionTrainer, model: torch.nn.Module, *args: object, **kwargs: object) -> Tensor:
        loss = training_step(trainer, model, *args, **kwargs)
        if trainer.state.global_step == step:
            next(iter(model.parameters())).grad.fill_(torch.inf)
        return loss

    monkeypatch.setattr(ExtractionTrainer, "training_step", corrupted)


def corrupt_weights(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Set a weight to NaN after the update of a step."""
    create = ExtractionTrainer.create_optimizer

    def corrupted(trainer: ExtractionTrainer, *args: object) -> torch.optim.Optimizer:
        optimizer = create(trainer, *args)

        def corrupt(*_: object) -> None:
            if trainer.state.global_step == step:
                next(trainer.model.parameters()).data.view(-1)[0] = torch.nan

        optimizer.register_step_post_hook(corrupt)
        return optimizer

    monkeypatch.setattr(ExtractionTrainer, "create_optimizer", corrupted)


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (lambda patch: corrupt_loss(patch, STEPS + 1, torch.nan), "the loss of step 8 is nan"),
        (lambda patch: corrupt_loss(patch, STEPS + 1, torch.inf), "the loss of step 8 is inf"),
        (lambda patch: corrupt_gradient(patch, STEPS + 1), "the norm of the gradient of step 8 is (inf|nan)"),
        (lambda patch: corrupt_weights(patch, 2 * STEPS - 1), "a weight of step 12 is nan"),
    ],
)
def test_divergence_keeps_the_last_good_checkpoint(
    corrupt: object, message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrupt(monkeypatch)
    run = tmp_path / "run"
    with pytest.raises(UserError, match=rf"diverged: {message}\. .*last good checkpoint is \S+checkpoint-6") as error:
        train(config(data, run, "--training.epochs", "2"))
    assert "\n" not in str(error.value)
    assert not (run / METRICS).exists()
    assert last_checkpoint(run / CHECKPOINTS) == str(run / CHECKPOINTS / f"checkpoint-{STEPS}")


def test_too_high_learning_rate_gives_a_one_line_error(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(data, tmp_path / "run", "--training.learning_rate", "1e30")) == 2
    [line] = [line for line in capsys.readouterr().err.split("\n") if line.startswith("i2srm: ")]
    assert re.search(r"the training diverged: .*training\.learning_rate", line)


@pytest.mark.parametrize("value", [".inf", ".nan", "-.inf"])
@pytest.mark.parametrize("key", ["training.learning_rate", "training.weight_decay", "model.semantic_weight"])
def test_non_finite_settings_raise(key: str, value: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{key} must be 0 or more and finite, got (-?inf|nan)"):
        config(data, tmp_path / "run", f"--{key}={value}")
