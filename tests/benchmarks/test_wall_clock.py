"""The table of whole runs: the second run reads the cache of the first, and the lines add up."""

import sys
from pathlib import Path

import pytest

from benchmarks import wall_clock

SETTINGS = ["--model.text", "tiny", "--model.vision", "tiny", "--model.vision_weights", "none"]
SETTINGS += ["--data.image_size", "32", "--training.epochs", "1", "--training.learning_rate", "1e-3"]


def test_phases_of_each_run_add_up_to_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wall_clock, "SIZES", {"train": 8, "valid": 4, "test": 4})
    monkeypatch.setattr(sys, "argv", ["wall_clock", str(tmp_path), "--rows", "8", "--without-cache", *SETTINGS])
    wall_clock.main()
    text = capfd.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == ["seconds", "without the cache", "first run", "second run"]
    lines = {row[0]: [float(cell) for cell in row[1:]] for row in rows[1:]}
    assert lines["computing features"][0] == 0
    folders = [entry for entry in (tmp_path / "features").iterdir() if entry.is_dir()]
    assert len(folders) == 2  # one for each view of an image, shared by both runs
    whole, steps, ratios = (lines.pop(name) for name in ("**whole run**", "its steps alone", "whole / steps"))
    assert [sum(line[way] for line in lines.values()) for way in range(3)] == pytest.approx(whole, abs=0.5)
    assert [seconds / step for seconds, step in zip(whole, steps, strict=True)] == pytest.approx(ratios, rel=0.5)


def test_step_seconds_exclude_validation_and_waiting() -> None:
    history = [
        {"loss": 1.0, "seconds": 10.0, "waited": 0.2},
        {"eval_f1": 0.5, "seconds": 12.0},
        {"loss": 0.5, "seconds": 20.0, "waited": 0.0},
    ]
    assert wall_clock.step_seconds(history) == pytest.approx(8.0 + 8.0)
