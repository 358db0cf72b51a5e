"""Two processes with half the batch size each give the loss curve of one process."""

from pathlib import Path

import pytest

from tests.reference_models.training.tiny_runs import (
    arguments,
    encoder_without_dropout,
    history,
    run_pair,
    start,
    tiny_set,
)

EXACT = ("--model.head_dropout", "0", "--model.mixup.dropout", "0", "--model.mixup.global_batch", "true")
# Batch statistics cover only a process's own half of the batch.
FROZEN = ("--model.freeze_image_backbone", "true")


def test_two_processes_give_the_loss_curve_of_one(tmp_path: Path) -> None:
    data = tiny_set(tmp_path, {"train": 32, "valid": 16, "test": 8})
    encoder = encoder_without_dropout(data, tmp_path / "encoder")
    options = (*EXACT, *FROZEN, "--model.text", str(encoder), "--training.epochs", "5")
    one = start(arguments(data, tmp_path / "one", *options))
    one.join()
    assert one.exitcode == 0, (tmp_path / "one.log").read_text()
    command = arguments(data, tmp_path / "two", *options, "--training.batch_size", "4")
    assert run_pair(command) == [0, 0], (tmp_path / "two.log").read_text()
    for alone, together in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        assert together == pytest.approx(alone, abs=1e-5, rel=1e-5)
