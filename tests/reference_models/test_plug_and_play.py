"""The plug-and-play sweep: its cells, paired differences and intervals compared with scipy, and parallel jobs."""

import csv
import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel

from reference_models.cli import main
from reference_models.data import synthetic
from reference_models.errors import UserError
from reference_models.sweeps import run as sweep
from reference_models.sweeps.cells import Cell, make_cells
from reference_models.sweeps.differences import ALL, Difference, difference_table, differences, student_quantile
from reference_models.sweeps.outcome import Outcome
from reference_models.sweeps.tables import load_table

SIZES = {"train": 16, "valid": 6, "test": 6}
ARMS = {"none": (False, 0), "semantic loss": (False, 0.5), "AttnMixup": (True, 0), "both": (True, 0.5)}


def test_every_table_1_system_has_all_four_arms() -> None:
    table, systems = load_table("plug-and-play"), load_table("table1").rows
    cells = make_cells(table, ["synthetic-ner", "mnre"], Path("out"), [])
    for data, task in (("synthetic-ner", "ner"), ("mnre", "re")):
        own = [row for row in systems if row.task in (None, task)]
        assert [cell.row for cell in cells if cell.data == data] == [
            f"{row.name}, {arm}" for row in own for arm in ARMS
        ]
    for cell in cells:
        model = cell.config.model
        assert (model.attn_mixup, model.semantic_weight) == ARMS[cell.row.rpartition(", ")[2]]
        assert cell.paper == {}
    assert len({cell.config.output for cell in cells}) == len(cells)


@pytest.mark.parametrize("freedom", [1, 2, 5, 10, 11, 20, 100])
def test_student_quantile_matches_scipy(freedom: int) -> None:
    assert student_quantile(freedom) == pytest.approx(student.ppf(0.975, freedom), abs=1e-3)


def make_outcomes(values: dict[str, list[float] | None]) -> tuple[Any, dict[Cell, Outcome]]:
    table = load_table("plug-and-play")
    cells = make_cells(table, ["synthetic-re"], Path("out"), [])
    outcomes = {}
    for cell in cells:
        f1 = values.get(cell.row)
        state = "missing" if f1 is None else "finished"
        outcomes[cell] = Outcome(state, {} if f1 is None else {"f1": f1})
    return table, outcomes


SCORES: dict[str, list[float] | None] = {
    "UMT, none": [60.0, 62.0, 61.0],
    "UMT, AttnMixup": [61.0, 64.5, 61.5],
    "UMT, both": [59.0, 60.0, 58.5],
    "MEGA, none": [50.0, 51.0, 52.0],
    "MEGA, AttnMixup": [50.5, 50.0, 51.0],
    "PCNN, AttnMixup": [40.0, 40.0, 40.0],
}


def test_differences_are_paired_by_seed_with_scipy_intervals() -> None:
    table, outcomes = make_outcomes(SCORES)
    found = {(one.system, one.arm): one for one in differences(table, outcomes)}
    assert found.keys() == {("UMT", "AttnMixup"), ("UMT", "both"), ("MEGA", "AttnMixup"), (ALL, "AttnMixup")}
    one = found["UMT", "AttnMixup"]
    assert one.pairs == (1.0, 2.5, 0.5)
    expected = ttest_rel(SCORES["UMT, AttnMixup"], SCORES["UMT, none"]).confidence_interval(0.95)
    assert one.half_width is not None
    assert mean(one.pairs) - one.half_width == pytest.approx(expected.low, abs=1e-3)
    assert mean(one.pairs) + one.half_width == pytest.approx(expected.high, abs=1e-3)
    assert found[ALL, "AttnMixup"].pairs == pytest.approx((4 / 3, -0.5))
    assert Difference("x", "y", "z", (1.0,), (0.25,)).text() == "+0.25"


def test_table_shows_differences_and_missing_cells() -> None:
    table, outcomes = make_outcomes(SCORES)
    failed = next(cell for cell in outcomes if cell.row == "UMGF, none")
    outcomes[failed] = Outcome("failed", reason="no memory")
    text = difference_table(table, differences(table, outcomes), outcomes, [0, 1, 2], ["--training.epochs", "1"])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["", "F1 with none", "semantic loss", "AttnMixup", "both"]
    by_name = {row[0]: row[1:] for row in rows[2:]}
    assert by_name["UMT"] == ["61.00 ± 1.00", "missing", "+1.33 [-1.25, +3.92]", "-1.83 [-3.73, +0.06]"]
    assert by_name["PCNN"] == ["missing", "missing", "no baseline", "missing"]
    assert by_name["UMGF"][0] == "failed [1]"
    assert by_name[ALL] == ["", "", "+0.42 [-11.23, +12.06]", ""]
    assert "- [1] no memory\n" in text
    assert "Set for all cells: `--training.epochs 1`." in text
    assert list(by_name) == [row.name for row in load_table("table1").rows if row.task in (None, "re")] + [ALL]


def test_sweep_of_one_system_trains_resumes_and_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    synthetic.generate(Path("posts"), "re", 0, SIZES)
    command = ["sweep", "plug-and-play", "--data", "synthetic-re", "--systems", "pcnn", "--seeds", "0", "1"]
    command += ["--output", "out", "--data.root", "posts", "--training.epochs", "1", "--training.batch_size", "8"]
    assert main([*command, "--list"]) == 0
    assert capsys.readouterr().out.count("missing") == 4
    assert main([*command, "--jobs", "2"]) == 0
    out = Path("out")
    scores = {
        arm: [f1(out / f"pcnn-{slug}/synthetic-re/seed-{seed}") for seed in (0, 1)] for arm, slug in SLUGS.items()
    }
    with (out / "plug-and-play.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["system"], line["arm"]) for line in lines] == [("PCNN", arm) for arm in list(ARMS)[1:]]
    for line in lines:
        pairs = [a - b for a, b in zip(scores[line["arm"]], scores["none"], strict=True)]
        assert [float(one) for one in line["pairs"].split()] == pytest.approx(pairs)
        assert float(line["mean"]) == pytest.approx(mean(scores[line["arm"]]))
    assert (out / "plug-and-play.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == [
        "plug-and-play.csv",
        "plug-and-play.md",
        "plug-and-play.png",
    ]
    # Nothing is trained again, and one process gives the same table.
    written = (out / "plug-and-play.md").read_bytes()
    monkeypatch.setattr("reference_models.training.run.build_system", None)
    assert main(command) == 0
    assert (out / "plug-and-play.md").read_bytes() == written


SLUGS = {"none": "none", "semantic loss": "semantic-loss", "AttnMixup": "attnmixup", "both": "both"}


def f1(run: Path) -> float:
    return 100 * float(json.loads((run / "metrics.json").read_text())["test"]["f1"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"systems": ["umd"]}, "umd"),
        ({"jobs": 0}, "--jobs must be 1 or more"),
    ],
)
def test_invalid_options_raise(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        sweep.run_sweep("plug-and-play", ["synthetic-re"], [0], tmp_path / "out", [], **options)
    with pytest.raises(UserError, match=r"compares values of model\.attn_mixup"):
        sweep.run_sweep("plug-and-play", ["synthetic-re"], [0], tmp_path / "out", ["--model.attn_mixup", "true"])
    assert not (tmp_path / "out").exists()
