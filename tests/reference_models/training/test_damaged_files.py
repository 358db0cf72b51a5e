"""A damaged, missing or unwritable file of a run gives a one-line error with its path and what to do."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import modeling_utils

from reference_models.cli import main
from reference_models.errors import UserError
from reference_models.training import trainer
from reference_models.training.run import CHECKPOINTS, train
from reference_models.training.seeds import train_seeds
from tests.reference_models.training.tiny_runs import arguments, assert_same_run, config

STEPS = ("--training.checkpoint_steps", "4")


def error_line(capsys: pytest.CaptureFixture[str], command: list[str]) -> str:
    """Run a command that fails and return its one-line error."""
    capsys.readouterr()
    assert main(command) == 2
    [line] = [line for line in capsys.readouterr().err.split("\n") if line.startswith("i2srm: ")]
    return line


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("file", "command", "named"),
    [
        ("model/model.safetensors", ["evaluate"], "run/model is damaged"),
        ("model/config.json", ["evaluate"], "run/model is damaged"),
        ("model/processor.json", ["predict", "--text", "Ruby"], "run/model is damaged"),
        ("model/tokenizer.json", ["evaluate"], "run/model is damaged"),
        ("metrics.json", ["report"], "run/metrics.json is damaged"),
        ("history.json", ["report"], "run/history.json is damaged"),
        ("predictions_test.jsonl", ["report"], "run/predictions_test.jsonl is damaged"),
    ],
)
def test_truncated_file_of_a_finished_run_is_named(
    file: str, command: list[str], named: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(run / file)
    line = error_line(capsys, [command[0], str(run), *command[1:]])
    assert re.search(rf"{named} or cannot be read \(.+\); train again in another folder, or copy", line), line


def test_truncated_metrics_of_a_seed_raise(data: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "runs" / "seed-0")
    settings = config(data, tmp_path / "runs", *STEPS)
    assert train_seeds(settings, [0])["seeds"] == [0]
    truncate(tmp_path / "runs" / "seed-0" / "metrics.json")
    with pytest.raises(UserError, match=r"seed-0/metrics\.json is damaged"):
        train_seeds(settings, [0])


@pytest.fixture
def interrupted(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run interrupted at its eighth step, with one checkpoint."""
    step = trainer.ExtractionTrainer.training_step

    def interrupt(self: trainer.ExtractionTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 7:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.ExtractionTrainer, "training_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config(data, tmp_path / "stopped"))
    return tmp_path / "stopped"


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "losses_0.pt"]
)
def test_incomplete_checkpoint_is_not_resumed(
    name: str, damage: Callable[[Path], None], interrupted: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = interrupted / CHECKPOINTS / "checkpoint-6"
    damage(checkpoint / name)
    line = error_line(capsys, arguments(data, interrupted))
    assert str(checkpoint) in line
    assert "delete the folder of this checkpoint, and the run resumes from an earlier one or starts again" in line


def test_run_resumes_after_the_damaged_checkpoint_is_deleted(interrupted: Path, data: Path, tmp_path: Path) -> None:
    shutil.rmtree(interrupted / CHECKPOINTS / "checkpoint-6")
    train(config(data, interrupted))
    train(config(data, tmp_path / "whole"))
    assert_same_run(interrupted, tmp_path / "whole")


@pytest.mark.parametrize(
    ("place", "name", "error"),
    [
        (torch, "save", RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")),
        (modeling_utils, "safe_save_file", OSError(28, "No space left on device")),
        (modeling_utils, "safe_save_file", OSError(30, "Read-only file system", "elsewhere/file")),
    ],
)
def test_full_or_read_only_disk_raises_with_the_path(
    place: Any,
    name: str,
    error: Exception,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(place, name, fail)
    line = error_line(capsys, arguments(data, tmp_path / "run"))
    file = "elsewhere/file" if getattr(error, "filename", None) else "run/checkpoints/partial"
    assert re.search(rf"{file}: cannot be written \(.+\); free disk space or choose a writable folder", line), line
