"""The training figure draws every curve of the runs."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from reference_models.training.figure import training_figure

HISTORY = [
    {"task_loss": 2.0, "semantic_loss": 0.3, "epoch": 1.0},
    {"eval_f1": 0.4, "epoch": 1.0},
    {"task_loss": 1.0, "semantic_loss": 0.1, "epoch": 2.0},
    {"eval_f1": 0.6, "epoch": 2.0},
]


@pytest.mark.parametrize("name", ["$x_$ {", "caf\udcff", "a\\b"])
def test_figure_accepts_any_run_name(name: str, tmp_path: Path) -> None:
    training_figure({name: HISTORY}, tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").format == "PNG"


def test_figure_draws_all_curves_and_the_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig

    def record_and_save(figure: Figure, *args: Any, **options: Any) -> None:
        drawn.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", record_and_save)
    plain = [{key: value for key, value in entry.items() if key != "semantic_loss"} for entry in HISTORY]
    training_figure({"text-only": plain, "i2srm": HISTORY}, tmp_path / "a.png", ceiling=0.5)
    losses, scores = drawn[0].axes
    assert [list(line.get_ydata()) for line in losses.lines] == [[2.0, 1.0], [2.0, 1.0], [0.3, 0.1]]
    assert [list(line.get_ydata()) for line in scores.lines] == [[0.4, 0.6], [0.4, 0.6], [0.5, 0.5]]
    assert Image.open(tmp_path / "a.png").format == "PNG"
