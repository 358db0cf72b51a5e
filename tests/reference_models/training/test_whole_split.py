"""Scores cover the whole split: dropped samples and words beyond the length limit count as missed."""

import json
import logging
from ast import literal_eval
from pathlib import Path

import pytest

from reference_models.config import RunConfig
from reference_models.data.formats.mnre import Mnre
from reference_models.data.synthetic import generate
from reference_models.errors import UserError
from reference_models.report.page import write_report
from reference_models.settings import read_settings
from reference_models.training.run import PREDICTIONS, evaluate, train

SIZES = {"train": 24, "valid": 12, "test": 12}
FOLDERS = {"train": "train", "valid": "val", "test": "test"}


def settings(task: str, root: Path, *overrides: str) -> RunConfig:
    basis = ["--data.root", str(root / "posts"), "--output", str(root / "run"), "--training.epochs", "1"]
    return read_settings(f"synthetic-{task}", [*basis, *overrides])


def lengthen(file: Path, number: int) -> None:
    """Insert 90 words before the later entity of a row, so that it lies beyond the length limit."""
    lines = file.read_text().splitlines()
    row = literal_eval(lines[number])
    first, second = sorted(("h", "t"), key=lambda name: row[name]["pos"][0])
    start, end = row[second]["pos"]
    row["token"][start:start] = ["so"] * 90
    row[second]["pos"] = [start + 90, end + 90]
    assert row[first]["pos"][1] <= start
    lines[number] = repr(row)
    file.write_text("\n".join(lines) + "\n")


def recall_of(rows: list[dict[str, str]]) -> float:
    true = [row for row in rows if row["true"] != "None"]
    return sum(row["predicted"] == row["true"] for row in true) / len(true)


def test_dropped_relations_count_as_missed(tmp_path: Path) -> None:
    generate(tmp_path / "posts", "re", 0, SIZES)
    root = tmp_path / "posts"
    for split, name in FOLDERS.items():
        for number in (0, 3):
            (root / "img_org" / name / f"{split}_{number}.jpg").unlink()
    relations = [sample.relation for sample in Mnre().read(root, "test")]
    some = next(number for number, relation in enumerate(relations) if relation != "None" and number not in (0, 3))
    for name in ("train", "val", "test"):
        lengthen(root / "txt" / f"ours_{name}.txt", some)

    config = settings("re", tmp_path, "--data.bad_images", "drop", "--data.long_samples", "drop")
    metrics = train(config)
    assert metrics["samples"] == {"train": 24 - 3, "valid": 12, "test": 12}
    assert metrics["too_long"] == {split: [f"ours_{FOLDERS[split]}.txt:{some + 1}"] for split in SIZES}
    actions = {split: {bad["action"] for bad in found["found"]} for split, found in metrics["bad_images"].items()}
    assert actions == {"train": {"sample dropped"}, "valid": {"image blanked"}, "test": {"image blanked"}}

    rows = [json.loads(line) for line in (tmp_path / "run" / PREDICTIONS).read_text().splitlines()]
    assert [row["true"] for row in rows] == relations
    assert [number for number, row in enumerate(rows) if "too_long" in row] == [some]
    assert rows[some]["predicted"] == "None"
    assert metrics["test"]["recall"] == pytest.approx(recall_of(rows))
    for split, scores in (("test", metrics["test"]), ("valid", metrics["valid"])):
        evaluation = evaluate(tmp_path / "run", config, split)
        assert len(evaluation.samples) == SIZES[split]
        assert evaluation.scores["f1"] == pytest.approx(scores["f1"])
    assert len(evaluate(tmp_path / "run", config, "train").samples) == 24
    assert f"test {len(relations)}" in write_report(tmp_path / "run", config).read_text()


def test_cut_words_are_counted_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    generate(tmp_path / "posts", "ner", 0, SIZES)
    file = tmp_path / "posts" / "test.txt"
    sentences = file.read_text().split("\n\n")
    sentences[2] = sentences[2].rstrip() + "\nso\tO" * 90 + "\nRome\tB-LOC"
    file.write_text("\n\n".join(sentences))
    with caplog.at_level(logging.WARNING):
        metrics = train(settings("ner", tmp_path))
    assert metrics["words_cut"]["train"] == {"samples": 0, "words": 0}
    cut = metrics["words_cut"]["test"]
    assert cut["samples"] == 1
    assert 0 < cut["words"] < 91
    assert "test: 1 of 12 sentences are longer than 80 sub-words (data.max_length)" in caplog.text
    assert f"their last words are cut off, {cut['words']} words in total" in caplog.text


def test_split_without_remaining_samples_raises(tmp_path: Path) -> None:
    generate(tmp_path / "posts", "re", 0, SIZES)
    for number in range(SIZES["train"]):
        lengthen(tmp_path / "posts" / "txt" / "ours_train.txt", number)
    with pytest.raises(UserError, match=r"train: no sample is left: all 24 .* 80 sub-words; raise data\.max_length"):
        train(settings("re", tmp_path, "--data.long_samples", "drop"))
