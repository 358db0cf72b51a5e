"""Parquet files: the same samples as from JSON Lines, nulls, shards, and errors for damaged or missing files."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference_models.cli import main
from reference_models.data.formats import Jsonl, Parquet, recognise
from reference_models.errors import UserError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

words = st.lists(st.text("abc", min_size=1, max_size=4), min_size=2, max_size=5)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    row: dict[str, Any] = {"tokens": draw(words)}
    row["entities"] = [{"start": 0, "end": 1, "label": "x"}] * draw(st.integers(0, 1))
    if draw(st.booleans()):
        row["image"] = "a.jpg"
    if draw(st.booleans()):
        row["image_texts"] = {draw(st.sampled_from(["caption", "ocr"])): "two dogs"}
    return row


def write(path: Path, values: list[dict[str, Any]]) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(values), path, row_group_size=2)


def nulls_for_missing(row: dict[str, Any]) -> dict[str, Any]:
    texts = {"caption": None, "ocr": None, **row["image_texts"]} if "image_texts" in row else None
    return {**row, "image": row.get("image"), "image_texts": texts}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(rows(), min_size=1, max_size=7), cut=st.integers(1, 6))
def test_samples_match_json_lines(tmp_path: Path, values: list[dict[str, Any]], cut: int) -> None:
    lines, whole, shards = (tmp_path / name for name in ("jsonl", "whole", "shards"))
    for folder in (lines, whole, shards):
        folder.mkdir(exist_ok=True)
    (lines / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in values))
    table = [nulls_for_missing(row) for row in values]
    write(whole / "train.parquet", table)
    cut = min(cut, len(table))
    parts = [table[:cut], table[cut:]] if cut < len(table) else [table]
    for path in shards.iterdir():
        path.unlink()
    for number, part in enumerate(parts):
        write(shards / f"train-{number:05}-of-{len(parts):05}.parquet", part)

    def read(kind: Jsonl, root: Path) -> list[tuple[Any, ...]]:
        samples = kind.read(root, "train")
        return [(one.words, one.tags, one.image and one.image.name, one.image_texts) for one in samples]

    expected = read(Jsonl(), lines)
    assert read(Parquet(), whole) == read(Parquet(), shards) == expected
    assert recognise(whole).name == recognise(shards).name == "parquet"


def test_sample_ids_contain_file_and_row(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"train-{number:05}-of-00002.parquet", [{"tokens": ["a"]}, {"tokens": ["b"]}])
    names = [sample.id for sample in Parquet().read(tmp_path, "train")]
    assert names == [f"train-0000{shard}-of-00002.parquet:{row}" for shard in (0, 1) for row in (1, 2)]
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(UserError, match="this file is missing"):
        list(Parquet().read(tmp_path, "train"))


def test_relations_are_read_and_set_the_task(tmp_path: Path) -> None:
    pair = {"head": [0, 1], "tail": [1, 2], "label": "likes"}
    write(tmp_path / "train.parquet", [{"tokens": ["a", "b"], "relations": [pair]}])
    assert Parquet().find_task(tmp_path) == "re"
    [sample] = Parquet().read(tmp_path, "train")
    assert (sample.head, sample.tail, sample.relation) == ((0, 1), (1, 2), "likes")


def test_invalid_files_raise(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.parquet: expected a Parquet file, .*train\.parquet"):
        list(Parquet().read(tmp_path, "train"))
    path = tmp_path / "train.parquet"
    parquet.write_table(pyarrow.table({"tokens": pyarrow.array([], pyarrow.list_(pyarrow.string()))}), path)
    with pytest.raises(UserError, match=r"train\.parquet: expected one row or more, got an empty file$"):
        list(Parquet().read(tmp_path, "train"))
    path.write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"train\.parquet: expected a Parquet file, but it cannot be read \("):
        list(Parquet().read(tmp_path, "train", pairs=False))
    write(path, [{"tokens": ["a"], "colour": "red"}])
    with pytest.raises(UserError, match=r"train\.parquet:1: unknown key 'colour'"):
        list(Parquet().read(tmp_path, "train"))
    write(path, [{"tokens": ["a"], "image": {"bytes": b"x" * 1000, "path": "a.jpg"}}])
    with pytest.raises(UserError, match=r"train\.parquet:1, 'image': expected the path of a file .{0,150}$"):
        list(Parquet().read(tmp_path, "train"))
    with pytest.raises(UserError, match="the data format parquet is read-only; write another format, such as jsonl"):
        Parquet().write(tmp_path, {})


def test_data_check_command_accepts_parquet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "valid", "test"):
        write(tmp_path / f"{split}.parquet", [{"tokens": ["Ann"], "entities": [{"start": 0, "end": 1, "label": "x"}]}])
    assert main(["data", "check", str(tmp_path), "--text-only"]) == 0
    assert "parquet" in capsys.readouterr().out
