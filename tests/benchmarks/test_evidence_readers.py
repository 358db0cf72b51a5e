"""Readers of the evidence benchmark on small files in the public formats."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.evidence.readers import HELD_OUT, Row, read_source
from reference_models.errors import UserError


def write_banking77(folder: Path, per_class: int = HELD_OUT + 3) -> None:
    folder.mkdir()
    lines = [f'"{label}, number {number}",{label}' for label in ("card", "cash") for number in range(per_class)]
    (folder / "train.csv").write_text("text,category\n" + "\n".join(lines) + "\n")
    (folder / "test.csv").write_text("text,category\nwhere is it?,card\nmine,cash\n")


def write_columns(folder: Path, sentences: Sequence[Sequence[tuple[str, str]]], header: str = "") -> None:
    folder.mkdir()
    for split in ("train", "valid", "test"):
        blocks = [header + "".join(f"{word}\t{tag}\n" for word, tag in sentence) for sentence in sentences]
        (folder / f"{split}.txt").write_text("\n".join(blocks))


SENTENCES = [[("New", "O"), ("York", "B-LOC"), ("City", "I-LOC")], [("Ann", "B-PER")]]


def test_banking77_keeps_rows_of_each_class_for_validation(tmp_path: Path) -> None:
    write_banking77(tmp_path / "banking77")
    texts = read_source("banking77", tmp_path)
    assert texts.labels == ("card", "cash")
    assert {split: len(rows) for split, rows in texts.rows.items()} == {"train": 6, "valid": 2 * HELD_OUT, "test": 2}
    assert [row.label for row in texts.rows["valid"]].count("card") == HELD_OUT
    assert not set(texts.rows["train"]) & set(texts.rows["valid"])
    assert texts.rows["test"][0] == Row("where is it?", "card")
    assert texts == read_source("banking77", tmp_path)


def test_clinc150_has_no_out_of_scope_rows(tmp_path: Path) -> None:
    (tmp_path / "clinc150").mkdir()
    part = [["what now", "a"], ["and then", "b"]]
    content = {"train": part, "val": part, "test": part, "oos_train": [["x", "oos"]], "oos_val": [], "oos_test": []}
    (tmp_path / "clinc150" / "data_small.json").write_text(json.dumps(content))
    texts = read_source("clinc150_small", tmp_path)
    assert texts.labels == ("a", "b")
    assert texts.rows["valid"] == [Row("what now", "a"), Row("and then", "b")]


def test_mnre_has_two_spans(tmp_path: Path) -> None:
    (tmp_path / "mnre" / "txt").mkdir(parents=True)
    (tmp_path / "mnre" / "ours_rel2id.json").write_text('{"None": 0, "/per/per/peer": 1}')
    row = {
        "token": ["Ann", "met", "Bob", "Ray"],
        "h": {"name": "Ann", "pos": [0, 1]},
        "t": {"name": "Bob Ray", "pos": [2, 4]},
        "img_id": "1.jpg",
        "relation": "/per/per/peer",
    }
    for name in ("train", "val", "test"):
        (tmp_path / "mnre" / "txt" / f"ours_{name}.txt").write_text(f"{row}\n")
    texts = read_source("mnre", tmp_path)
    assert texts.labels == ("None", "/per/per/peer")
    assert texts.rows["train"] == [Row(("Ann", "met", "Bob", "Ray"), "/per/per/peer", ((0, 1), (2, 4)))]


@pytest.mark.parametrize(
    ("source", "header"), [("wnut17", ""), ("twitter2015", "IMGID:1\n"), ("twitter2017", "IMGID:1\n")]
)
def test_tagged_sentences_are_read(source: str, header: str, tmp_path: Path) -> None:
    write_columns(tmp_path / source, SENTENCES, header)
    texts = read_source(source, tmp_path)
    assert texts.labels == ("O", "B-LOC", "B-PER", "I-LOC")
    assert texts.rows["test"] == [Row(("New", "York", "City"), ("O", "B-LOC", "I-LOC")), Row(("Ann",), ("B-PER",))]


def test_scikit_learn_data_sets_need_no_folder(tmp_path: Path) -> None:
    for source, classes in (("wine", 3), ("breast_cancer", 2), ("digits", 10)):
        assert len(read_source(source, tmp_path).labels) == classes


def test_fingerprint_depends_on_the_content(tmp_path: Path) -> None:
    write_columns(tmp_path / "wnut17", SENTENCES)
    before = read_source("wnut17", tmp_path).fingerprint()
    assert before == read_source("wnut17", tmp_path).fingerprint()
    (tmp_path / "wnut17" / "test.txt").write_text("Ann\tB-PER\n")
    assert before != read_source("wnut17", tmp_path).fingerprint()


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"wnut17.train.txt: cannot be read"):
        read_source("wnut17", tmp_path)
    with pytest.raises(UserError, match=r"banking77: cannot read banking77 \(FileNotFoundError"):
        read_source("banking77", tmp_path)
    with pytest.raises(UserError, match="unknown source 'x', expected one of banking77"):
        read_source("x", tmp_path)
    write_columns(tmp_path / "wnut17", [[("no tab", "")]])
    (tmp_path / "wnut17" / "train.txt").write_text("a\tO\nno tab\n")
    with pytest.raises(UserError, match=r"train.txt:2: expected a word, a tab and a tag, got 'no tab'"):
        read_source("wnut17", tmp_path)
