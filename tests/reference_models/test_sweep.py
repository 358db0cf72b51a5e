"""Sweeps: cells match the paper, finished runs are kept, and a failed cell is reported and stops no other."""

import csv
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from reference_models.config import TextSystemConfig
from reference_models.data import synthetic
from reference_models.errors import UserError
from reference_models.settings import read_settings
from reference_models.sweeps import run as sweep
from reference_models.sweeps.cells import Cell, make_cells
from reference_models.sweeps.outcome import Outcome, read_outcome
from reference_models.sweeps.report import expected_f1
from reference_models.sweeps.tables import load_table
from reference_models.systems.lstm_crf import LSTMCRFConfig
from reference_models.training import run as training
from reference_models.training.folder import start_of

SIZES = {"train": 24, "valid": 8, "test": 8}
SHORT = ["--training.epochs", "1", "--training.batch_size", "8", "--model.tiny_vocabulary", "100"]
BERT, ROBERTA = {"model.text": "bert-base-uncased"}, {"model.text": "roberta-base"}
ENCODERS = {"BERT-base": BERT, "RoBERTa-base": ROBERTA, "RoBERTa-large": {}}
BACKBONES: dict[str, dict[str, str]] = {
    "ResNet50": {},
    "ResNet101": {"model.vision": "resnet101"},
    "ResNet152": {"model.vision": "resnet152"},
}
COSTS = ("M parameters", "s/epoch")
TITLES = {"twitter2015": "Twitter-2015", "twitter2017": "Twitter-2017", "mnre": "MNRE"}
# The settings of the data set that each row changes.
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "table5": {
        "I2SRM": {},
        "without semantic loss": {"model.semantic_weight": 0},
        "without AttnMixup": {"model.attn_mixup": False},
        "without both": {"model.semantic_weight": 0, "model.attn_mixup": False},
    },
    "table6": {f"Delta = {share}": {"model.mixup": {"transformed_ratio": share}} for share in (0.8, 0.6, 0.4)},
}
# A second copy of the numbers in the paper.
PAPER: dict[str, dict[str, dict[str, Any]]] = {
    "table1": {
        "CNN-BiLSTM-CRF": {"Twitter-2015": (66.24, 68.09, 67.15), "Twitter-2017": (80.00, 78.76, 79.37)},
        "HBiLSTM-CRF": {"Twitter-2015": (70.32, 68.05, 69.17), "Twitter-2017": (82.69, 78.16, 80.37)},
        "BERT": {"Twitter-2015": (68.30, 74.61, 71.32), "Twitter-2017": (82.19, 83.72, 82.95)},
        "BERT-CRF": {"Twitter-2015": (69.22, 74.59, 71.81), "Twitter-2017": (83.32, 83.57, 83.44)},
        "PCNN": {"MNRE": (62.85, 49.69, 55.49)},
        "MTB": {"MNRE": (64.46, 57.81, 60.86)},
        "text alone, encoder of I2SRM": {"Twitter-2015": None, "Twitter-2017": None, "MNRE": None},
        "VisualBERT": {
            "Twitter-2015": (68.84, 71.39, 70.09),
            "Twitter-2017": (84.06, 85.39, 84.72),
            "MNRE": (57.15, 59.48, 58.30),
        },
        "AdapCoAtt-BERT-CRF": {"Twitter-2015": (69.87, 74.59, 72.15), "Twitter-2017": (85.13, 83.20, 84.10)},
        "UMT": {
            "Twitter-2015": (71.67, 75.23, 73.41),
            "Twitter-2017": (85.28, 85.34, 85.31),
            "MNRE": (62.93, 63.88, 63.46),
        },
        "MEGA": {
            "Twitter-2015": (70.35, 74.58, 72.35),
            "Twitter-2017": (84.03, 84.75, 84.39),
            "MNRE": (64.51, 68.44, 66.41),
        },
        "UMGF": {
            "Twitter-2015": (74.49, 75.21, 74.85),
            "Twitter-2017": (86.54, 84.50, 85.51),
            "MNRE": (64.38, 66.23, 65.29),
        },
        "MAF": {"Twitter-2015": (71.86, 75.10, 73.42), "Twitter-2017": (86.13, 86.38, 86.25)},
        "HVPNeT": {
            "Twitter-2015": (73.87, 76.82, 75.32),
            "Twitter-2017": (85.84, 87.93, 86.87),
            "MNRE": (83.64, 80.78, 81.85),
        },
        "ITA": {"Twitter-2015": 76.01, "Twitter-2017": 86.45},
        "I2SRM": {
            "Twitter-2015": (76.22, 78.04, 77.12),
            "Twitter-2017": (87.41, 89.42, 88.40),
            "MNRE": (84.65, 83.59, 84.12),
        },
    },
    "table2": {
        "BERT-base": {"ResNet50": 76.65, "ResNet101": 76.50, "ResNet152": 75.42},
        "RoBERTa-base": {"ResNet50": 76.70, "ResNet101": 76.51, "ResNet152": 75.70},
        "RoBERTa-large": {"ResNet50": 77.12, "ResNet101": 76.89, "ResNet152": 76.50},
    },
    "table3": {
        "BERT-base": {"ResNet50": 88.16, "ResNet101": 87.70, "ResNet152": 87.41},
        "RoBERTa-base": {"ResNet50": 88.29, "ResNet101": 88.02, "ResNet152": 87.53},
        "RoBERTa-large": {"ResNet50": 88.40, "ResNet101": 88.32, "ResNet152": 87.89},
    },
    "table4": {
        "BERT-base": {"ResNet50": 83.78, "ResNet101": 83.41, "ResNet152": 83.17},
        "RoBERTa-base": {"ResNet50": 84.08, "ResNet101": 83.83, "ResNet152": 83.51},
        "RoBERTa-large": {"ResNet50": 84.12, "ResNet101": 83.90, "ResNet152": 83.69},
    },
    "table5": {
        "I2SRM": {"Twitter-2015": 77.12, "Twitter-2017": 88.40, "MNRE": 84.12},
        "without semantic loss": {"Twitter-2015": 76.43, "Twitter-2017": 87.85, "MNRE": 83.42},
        "without AttnMixup": {"Twitter-2015": 76.57, "Twitter-2017": 87.92, "MNRE": 83.36},
        "without both": {"Twitter-2015": None, "Twitter-2017": None, "MNRE": None},
    },
    "table6": {
        "Delta = 0.8": {"Twitter-2015": 76.53, "Twitter-2017": 87.92, "MNRE": 83.62},
        "Delta = 0.6": {"Twitter-2015": 77.12, "Twitter-2017": 88.40, "MNRE": 84.12},
        "Delta = 0.4": {"Twitter-2015": 75.95, "Twitter-2017": 87.71, "MNRE": 81.68},
    },
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "posts"
    synthetic.generate(folder, "ner", 0, SIZES)
    return folder


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The AttnMixup ratio (or None) of each model that is built, so one entry per trained run."""
    built: list[float | None] = []
    build = vars(training)["build_system"]

    def counted(name: str, settings: Any, processor: Any) -> Any:
        built.append(settings.mixup.get("transformed_ratio"))
        return build(name, settings, processor)

    monkeypatch.setattr(training, "build_system", counted)
    return built


def stop_builds(monkeypatch: pytest.MonkeyPatch, stop: Callable[[Any], BaseException | None]) -> None:
    build = vars(training)["build_system"]

    def stop_or_build(name: str, settings: Any, processor: Any) -> Any:
        if error := stop(settings):
            raise error
        return build(name, settings, processor)

    monkeypatch.setattr(training, "build_system", stop_or_build)


def read_markdown(path: Path) -> dict[str, dict[str, str]]:
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def f1_of(folder: Path) -> float:
    f1: float = json.loads((folder / "metrics.json").read_text())["test"]["f1"]
    return 100 * f1


SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "CNN-BiLSTM-CRF": ("lstm_crf", {"char_encoder": "cnn"}),
    "HBiLSTM-CRF": ("lstm_crf", {"char_encoder": "lstm"}),
    "BERT": ("bert", {"tag_head": "softmax", "text": "bert-base-cased"}),
    "BERT-CRF": ("bert", {"tag_head": "crf", "text": "bert-base-cased"}),
    "MTB": ("bert", {"pair": "marker", "post": "linear"}),
    "text alone, encoder of I2SRM": ("bert", {"text": "roberta-large"}),
    **{name: (name.lower(), {}) for name in ("PCNN", "VisualBERT", "UMT", "MEGA", "UMGF", "MAF", "ITA")},
    "AdapCoAtt-BERT-CRF": ("adapcoatt", {"coattn": "add"}),
    "HVPNeT": ("hvpnet", {"prefix": "release", "attn_mixup": False, "semantic_weight": 0}),
    "I2SRM": ("i2srm", {"prefix": "paper", "attn_mixup": True, "semantic_weight": 0.5}),
}


def test_table_1_rows_are_systems_with_their_settings() -> None:
    table = load_table("table1")
    assert {row.name for row in table.rows} == SYSTEMS.keys()
    for cell in make_cells(table, table.data, Path("out"), []):
        name, settings = SYSTEMS[cell.row]
        assert cell.config.system == name
        assert {key: getattr(cell.config.model, key) for key in settings} == settings


@pytest.mark.parametrize("name", sorted(PAPER.keys() - {"table1"}))
def test_cells_change_only_the_settings_of_the_table(name: str) -> None:
    table = load_table(name)
    cells = make_cells(table, table.data, Path("out"), [])
    assert len({cell.config.output for cell in cells}) == len(cells)
    for cell in cells:
        base, own = (start_of(config) for config in (read_settings(cell.data, []), cell.config))
        title, _, backbone = cell.column.partition(", ")
        expected = ENCODERS[cell.row] | BACKBONES[backbone] if backbone else ROWS[name][cell.row]
        assert {key: own[key] for key in own if own[key] != base[key]} == expected
        assert title == TITLES[cell.data]


@pytest.mark.parametrize("name", PAPER)
def test_cells_have_the_numbers_of_the_paper(name: str) -> None:
    table = load_table(name)
    found: dict[str, dict[str, Any]] = {row: {} for row in PAPER[name]}
    for cell in make_cells(table, table.data, Path("out"), []):
        numbers = tuple(cell.paper.values()) or (None,)
        found[cell.row][cell.column.split(", ")[-1]] = numbers if len(numbers) > 1 else numbers[0]
        assert tuple(cell.paper) in (table.scores, (), ("f1",))
    assert found == PAPER[name]


def test_tables_use_the_data_sets_of_the_paper() -> None:
    data = {name: load_table(name).data for name in PAPER}
    assert {name: data[name] for name in ("table2", "table3", "table4")} == {
        "table2": ("twitter2015",),
        "table3": ("twitter2017",),
        "table4": ("mnre",),
    }
    assert all(data[name] == tuple(TITLES) for name in ("table1", "table5", "table6"))


@pytest.mark.parametrize("name", PAPER)
def test_synthetic_cells_have_no_paper_numbers(name: str) -> None:
    table = load_table(name)
    cells = make_cells(table, table.synthetic, Path("out"), ["--training.epochs", "7"])
    encoders = name in ("table2", "table3", "table4")
    assert {row: [] for row in PAPER[name]} == {cell.row: [] for cell in cells}
    for cell in cells:
        assert cell.paper == {}
        assert cell.config.training.epochs == 7
        assert (getattr(cell.config.model, "text", "tiny") == "tiny", cell.config.data.image_size == 32) == (
            not encoders,
            not encoders,
        )
        assert (cell.config.model.vision_weights, cell.config.training.learning_rate) == (
            ("imagenet", 3e-5) if encoders else ("none", 1e-3)
        )


@pytest.mark.parametrize(
    ("name", "data", "seeds", "overrides", "message"),
    [
        ("table7", [], [0], [], "unknown sweep 'table7', expected one of plug-and-play, table1, table2"),
        ("../mnre", [], [0], [], "unknown sweep"),
        (
            "table2",
            ["mnre"],
            [0],
            [],
            "table2 has no data set 'mnre'; it has twitter2015 and the synthetic data sets synthetic-ner",
        ),
        ("table5", ["mnre", "mnre"], [0], [], "different data sets"),
        ("table5", [], [0, 0], [], "different seeds"),
        ("table5", [], [-1], [], "a seed must be a whole number from 0 to 4294967295, got -1"),
        ("table5", [], [2**32], [], "got 4294967296"),
        ("table5", [], [0], ["--training.epics", "3"], "training.epics"),
        ("table5", [], [0], ["--model.attn_mixup=false"], "table5 compares values of model.attn_mixup"),
        (
            "table6",
            ["mnre"],
            [0],
            ["--model.mixup", '{"transformed_ratio": 0.9}'],
            "table6 compares values of model.mixup.transformed_ratio",
        ),
        ("table2", ["twitter2015"], [0], ["--model.text", "x"], "table2 compares values of model.text"),
        ("table5", ["mnre"], [0], ["--training.seed", "3"], "--seeds"),
        ("table5", [], [0], ["--data.root", "x"], "data.root is the folder of one data set, but the sweep has 3"),
        ("table5", ["synthetic-re"], [0], ["--data.root", "nowhere"], "data.root: there is no folder nowhere"),
    ],
)
def test_mistakes_raise_before_anything_is_written(
    name: str, data: list[str], seeds: list[int], overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        sweep.run_sweep(name, data, seeds, tmp_path / "out", overrides)
    assert not (tmp_path / "out").exists()


def test_interrupted_sweep_resumes(
    tmp_path: Path,
    root: Path,
    builds: list[float | None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "sweep"
    command = ("table5", ["synthetic-ner"], [0, 1], output, ["--data.root", str(root), *SHORT])
    assert sweep.list_cells(*command).endswith("0 of 4 are finished")
    assert not output.exists()
    with monkeypatch.context() as patch:
        stop_builds(patch, lambda _: KeyboardInterrupt() if len(builds) == 3 else None)
        with pytest.raises(KeyboardInterrupt):
            sweep.run_sweep(*command)
    assert len(builds) == 3
    before = {path: path.stat().st_mtime_ns for path in output.rglob("model.safetensors")}
    states = [line.split("  ")[0].strip() for line in sweep.list_cells(*command).splitlines()[:4]]
    assert states == ["finished", "partial", "missing", "missing"]
    assert read_markdown(output / "table5.md")["without semantic loss"] == {"synthetic-ner ours": "missing"}

    assert sweep.run_sweep(*command) == 0
    assert len(builds) == 8
    assert {path: path.stat().st_mtime_ns for path in before} == before
    printed = capsys.readouterr().out
    assert "== cell 4 of 4: without both on synthetic-ner" in printed
    text = (output / "table5.md").read_text()
    assert text in printed
    labels = json.loads((output / "i2srm/synthetic-ner/seed-0/metrics.json").read_text())["labels_fingerprint"]
    assert f"Labels of synthetic-ner: {labels}." in text
    assert "over the seeds 0, 1." in text
    assert "--training.epochs 1 --training.batch_size 8" in text

    table = read_markdown(output / "table5.md")
    lines = read_csv(output / "table5.csv")
    assert list(table) == [line["row"] for line in lines] == list(ROWS["table5"])
    for line in lines:
        folder = output / line["row"].lower().replace(" ", "-") / "synthetic-ner"
        values = [f1_of(folder / f"seed-{seed}") for seed in (0, 1)]
        assert [float(value) for value in line["values"].split()] == values
        assert (float(line["mean"]), float(line["deviation"])) == (mean(values), stdev(values))
        assert table[line["row"]] == {"synthetic-ner ours": f"{mean(values):.2f} ± {stdev(values):.2f}"}
        assert (line["paper"], line["state"], line["seeds"], line["labels"]) == ("", "finished", "0 1", labels)

    written = (output / "table5.csv").read_bytes()
    assert sweep.run_sweep(*command) == 0
    assert len(builds) == 8
    assert (output / "table5.csv").read_bytes() == written
    assert not list(output.glob("*.partial"))
    other = (*command[:4], [*command[4], "--training.warmup", "0.5"])
    assert sweep.list_cells(*other).count("other settings") == 4
    assert sweep.run_sweep(*other) == 4
    assert "training.warmup was 0.06 and is now 0.5" in (output / "table5.md").read_text()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_failed_cell_is_reported_and_the_others_continue(
    tmp_path: Path, root: Path, builds: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("table6", ["synthetic-ner"], [3], tmp_path, ["--data.root", str(root), *SHORT])
    with monkeypatch.context() as patch:
        full = RuntimeError("out of memory\nand more")
        stop_builds(patch, lambda settings: full if settings.mixup["transformed_ratio"] == 0.6 else None)
        assert sweep.run_sweep(*command) == 1
    assert builds == [0.8, 0.4]
    table = read_markdown(tmp_path / "table6.md")
    score = f1_of(tmp_path / "delta-0.4/synthetic-ner/seed-3")
    assert table["Delta = 0.4"] == {"synthetic-ner ours": f"{score:.2f}"}
    assert table["Delta = 0.6"] == {"synthetic-ner ours": "failed [1]"}
    text = (tmp_path / "table6.md").read_text()
    assert "- [1] RuntimeError: out of memory and more\n" in text
    assert "single seed 3." in text
    line = read_csv(tmp_path / "table6.csv")[1]
    assert (line["state"], line["mean"], line["reason"]) == ("failed", "", "RuntimeError: out of memory and more")

    assert sweep.run_sweep(*command) == 0
    assert builds == [0.8, 0.4, 0.6]
    assert "failed" not in (tmp_path / "table6.md").read_text()


def test_missing_encoders_give_one_line_per_encoder(tmp_path: Path, root: Path) -> None:
    assert sweep.run_sweep("table2", ["synthetic-ner"], [0], tmp_path, ["--data.root", str(root)]) == 9
    text = (tmp_path / "table2.md").read_text()
    for number, encoder in enumerate(("bert-base-uncased", "roberta-base", "roberta-large"), start=1):
        assert f"- [{number}] model.text: no tokenizer could be loaded from '{encoder}'" in text
    assert read_markdown(tmp_path / "table2.md")["RoBERTa-base"] == {
        f"synthetic-ner, {backbone} ours": "failed [2]" for backbone in BACKBONES
    }


def test_table_shows_paper_numbers_next_to_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores are fake; the table has three scores per cell and rows for only one task."""

    def fake_train(config: Any, seeds: list[int], label: None) -> None:
        for seed, share in zip(seeds, (0.5, 0.75), strict=True):
            run = Path(config.output) / f"seed-{seed}"
            run.mkdir(parents=True)
            (run / "start.json").write_text(json.dumps(start_of(config)))
            scores = {"precision": share, "recall": share / 2, "f1": share / 4}
            metrics = {"test": scores, "labels_fingerprint": config.data.format}
            if config.system != "umt":  # runs of an earlier version have no costs
                metrics |= {"parameters": 1_230_000, "seconds": 30 * share, "epochs": 10}
            (run / "metrics.json").write_text(json.dumps(metrics))

    monkeypatch.setattr(sweep, "train_seeds", fake_train)
    assert sweep.run_sweep("table1", ["twitter2015", "mnre"], [4, 7], tmp_path, []) == 0
    table = read_markdown(tmp_path / "table1.md")
    titles = [f"{data} {what}" for data in ("Twitter-2015", "MNRE") for what in ("paper", "ours", *COSTS)]
    ours, none = ["62.50 ± 17.68 / 31.25 ± 8.84 / 15.62 ± 4.42", "1.23", "1.9"], ["-"] * 4
    assert table == {
        row: dict(zip(titles, numbers, strict=True))
        for row, numbers in {
            "CNN-BiLSTM-CRF": ["66.24 / 68.09 / 67.15", *ours, *none],
            "HBiLSTM-CRF": ["70.32 / 68.05 / 69.17", *ours, *none],
            "BERT": ["68.30 / 74.61 / 71.32", *ours, *none],
            "BERT-CRF": ["69.22 / 74.59 / 71.81", *ours, *none],
            "PCNN": [*none, "62.85 / 49.69 / 55.49", *ours],
            "MTB": [*none, "64.46 / 57.81 / 60.86*", *ours],
            "text alone, encoder of I2SRM": ["-", *ours, "-", *ours],
            "VisualBERT": ["68.84 / 71.39 / 70.09", *ours, "57.15 / 59.48 / 58.30", *ours],
            "AdapCoAtt-BERT-CRF": ["69.87 / 74.59 / 72.15", *ours, *none],
            "UMT": ["71.67 / 75.23 / 73.41", ours[0], "-", "-", "62.93 / 63.88 / 63.46*", ours[0], "-", "-"],
            "MEGA": ["70.35 / 74.58 / 72.35*", *ours, "64.51 / 68.44 / 66.41", *ours],
            "UMGF": ["74.49 / 75.21 / 74.85", *ours, "64.38 / 66.23 / 65.29", *ours],
            "MAF": ["71.86 / 75.10 / 73.42", *ours, *none],
            "HVPNeT": ["73.87 / 76.82 / 75.32", *ours, "83.64 / 80.78 / 81.85*", *ours],
            "ITA": ["- / - / 76.01", *ours, *none],
            "I2SRM": ["76.22 / 78.04 / 77.12", *ours, "84.65 / 83.59 / 84.12", *ours],
        }.items()
    }
    text = (tmp_path / "table1.md").read_text()
    assert all(part in text for part in ("Labels of mnre: mnre.", "softmax over the tags", "MTB", "seeds 4, 7"))
    assert (
        "- * The paper's F1 does not follow from its P and R, which give 60.95 (MTB, MNRE), 63.40 (UMT, MNRE), 72.40 "
        "(MEGA, Twitter-2015), 82.19 (HVPNeT, MNRE).\n" in text
    )
    lines = read_csv(tmp_path / "table1.csv")
    f1_lines = [line for line in lines if (line["column"], line["score"]) == ("MNRE", "f1")]
    assert [(line["row"], line["paper"]) for line in f1_lines[:4]] == [
        ("PCNN", "55.49"),
        ("MTB", "60.86"),
        ("text alone, encoder of I2SRM", ""),
        ("VisualBERT", "58.3"),
    ]
    assert (f1_lines[0]["parameters"], f1_lines[0]["epoch_seconds"]) == ("1230000", "1.875")


def test_expected_f1_finds_five_inconsistent_paper_numbers() -> None:
    table = load_table("table1")
    odd = {
        (cell.row, cell.data): round(f1, 2)
        for cell in make_cells(table, table.data, Path("out"), [])
        if (f1 := expected_f1(cell.paper)) is not None
    }
    assert odd == {
        ("MTB", "mnre"): 60.95,
        ("AdapCoAtt-BERT-CRF", "twitter2017"): 84.15,
        ("UMT", "mnre"): 63.40,
        ("MEGA", "twitter2015"): 72.40,
        ("HVPNeT", "mnre"): 82.19,
    }


def test_setting_is_applied_only_to_systems_that_have_it() -> None:
    table = load_table("table1")
    words = ["--model.text", "roberta-base", "--training.epochs=3", "--model.char_encoder", "lstm"]
    for cell in make_cells(table, ["twitter2017"], Path("out"), words):
        assert cell.config.training.epochs == 3
        model = cell.config.model
        if cell.config.system == "lstm_crf":
            assert isinstance(model, LSTMCRFConfig)
            assert model.char_encoder == "lstm"
        else:
            assert isinstance(model, TextSystemConfig)
            assert model.text == "roberta-base"
    with pytest.raises(UserError, match=r"no setting model\.txt"):
        make_cells(table, ["twitter2017"], Path("out"), ["--model.txt", "roberta-base"])


def test_synthetic_data_are_generated_once_and_completely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(synthetic, "SIZES", SIZES)
    roots: list[str] = []
    monkeypatch.setattr(sweep, "train_seeds", lambda config, seeds, label: roots.append(config.data.root))
    (tmp_path / "out/data/synthetic-re.partial/posts").mkdir(parents=True)
    (tmp_path / "out/data/synthetic-re.partial/posts/half").touch()
    command: tuple[str, list[str], list[int], Path, list[str]] = ("table6", ["synthetic-re"], [0], Path("out"), [])
    assert sweep.list_cells(*command).endswith("0 of 3 are finished")
    assert not Path("out/data/synthetic-re").exists()
    sweep.run_sweep(*command)
    assert set(roots) == {"out/data/synthetic-re/posts"}
    made = Path(roots[0]) / "txt" / "ours_train.txt"
    assert len(made.read_text().splitlines()) == SIZES["train"]
    before = made.stat().st_mtime_ns
    sweep.run_sweep(*command)
    assert made.stat().st_mtime_ns == before
    synthetic.generate(Path("data/synthetic-re"), "re", 1, SIZES)
    sweep.run_sweep(*command)
    assert roots[-1] == "out/data/synthetic-re/posts"  # a started sweep keeps its data set
    sweep.run_sweep("table6", ["synthetic-re"], [0], Path("another"), [])
    assert roots[-1] == "data/synthetic-re"


def kill_at_0_6(cell: Cell, seeds: Sequence[int], scores: Sequence[str], *, labelled: bool) -> Outcome:
    if cell.row == "Delta = 0.6":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)
    return read_outcome(cell, seeds, scores)


def test_killed_process_fails_only_its_own_cell(
    tmp_path: Path, root: Path, builds: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("table6", ["synthetic-ner"], [3], tmp_path, ["--data.root", str(root), *SHORT])
    with monkeypatch.context() as patch:
        stop_builds(patch, lambda settings: RuntimeError("no") if settings.mixup["transformed_ratio"] == 0.6 else None)
        assert sweep.run_sweep(*command) == 1
    monkeypatch.setattr(sweep, "_train", kill_at_0_6)
    assert sweep.run_sweep(*command, jobs=2) == 1
    text = (tmp_path / "table6.md").read_text()
    assert "a process was killed, possibly because memory ran out; try fewer --jobs; run the same command" in text
    table = read_markdown(tmp_path / "table6.md")
    assert [row for row, cells in table.items() if "failed [1]" in cells.values()] == ["Delta = 0.6"]
