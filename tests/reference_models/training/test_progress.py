"""Training output: bars and unlabelled lines for a single run, labelled lines without bars for parallel runs."""

import re
from pathlib import Path

import pytest
from transformers.utils.logging import disable_progress_bar

from reference_models.training.run import train
from reference_models.training.seeds import train_seeds
from tests.reference_models.training.tiny_runs import config

LINE = (
    r"epoch \d of 2: task loss \d\.\d{4}, semantic loss \d\.\d{4}, validation F1 \d+\.\d\d "
    r"\(\d+ s; waited \d+% for data\)"
)


def lines(printed: str) -> list[str]:
    return [line for line in re.split(r"[\r\n]", printed) if "validation F1" in line]


def test_single_run_prints_bars_and_a_line_per_epoch(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config(data, tmp_path / "run", "--training.epochs", "2"))
    captured = capsys.readouterr()
    assert [line[:12] for line in lines(captured.out)] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert all(re.fullmatch(LINE, line.strip()) for line in lines(captured.out))
    assert "12/12" in captured.err
    assert "evaluating" in captured.err
    assert "'loss'" not in captured.out  # Trainer's own lines


def test_parallel_runs_print_labelled_lines_without_bars(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disable_progress_bar()  # as the processes of `run_jobs` do
    train_seeds(config(data, tmp_path / "runs", "--training.epochs", "2"), [3, 5], label="ours")
    captured = capsys.readouterr()
    starts = [f"ours, seed {seed}: epoch {epoch} of 2" for seed in (3, 5) for epoch in (1, 2)]
    assert [line[: len(start)] for line, start in zip(lines(captured.out), starts, strict=True)] == starts
    assert "it/s" not in captured.err
