"""The scaling tables: one line per size, with rates that follow from its seconds."""

import argparse
from pathlib import Path

import pytest

from benchmarks import scaling_step


def cells(line: str) -> list[float]:
    return [float(cell) for cell in line.strip("| \n").split("|")]


def test_tables_have_a_line_for_each_batch_size_and_length(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaling_step, "BATCHES", (1, 3))
    monkeypatch.setattr(scaling_step, "LENGTHS", (8, 90))
    monkeypatch.setattr(scaling_step, "median_seconds", lambda step, **_: (step(), 0.5)[1])
    for part in (scaling_step.batch, scaling_step.length):
        part(argparse.Namespace(size="tiny"))
    rows = [cells(line) for line in capsys.readouterr().out.splitlines() if line.startswith(("| 1", "| 3"))]
    assert [row[:4] for row in rows] == [[1, 32, 0.5, 500], [3, 32, 0.5, 167], [16, 8, 0.5, 31], [16, 90, 0.5, 31]]
    assert rows[0][4] == pytest.approx(500e3 / 32, abs=1)


def test_rank_writes_its_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scaling_step, "STEPS", 1)
    scaling_step._rank(0, 1, "tiny", str(tmp_path))
    assert float((tmp_path / "seconds-0").read_text()) > 0
