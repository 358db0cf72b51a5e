"""Shards of a split: order, missing or extra shards, and a single file beside shards."""

import re
from pathlib import Path

import pytest

from reference_models.data.formats.shards import check_shards, split_files
from reference_models.errors import UserError


def make(root: Path, *names: str) -> tuple[Path, ...]:
    for name in names:
        (root / name).touch()
    return split_files(root, "train", ".jsonl")


def test_split_is_one_file_or_ordered_shards(tmp_path: Path) -> None:
    assert make(tmp_path) == (tmp_path / "train.jsonl",)
    others = ("train-old.jsonl", "valid-00000-of-00001.jsonl", "train-00000-of-00003.parquet", "train-0-of-1.jsonl")
    assert make(tmp_path, "train.jsonl", *others) == (tmp_path / "train.jsonl",)
    check_shards(split_files(tmp_path, "train", ".jsonl"))
    (tmp_path / "train.jsonl").unlink()
    names = [f"train-{number:05}-of-00012.jsonl" for number in range(12)]
    files = make(tmp_path, *reversed(names))
    assert [path.name for path in files] == names
    check_shards(files)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["train-00000-of-00002.jsonl"],
            "train-00001-of-00002.jsonl: expected 2 shards of 'train', but this file is missing",
        ),
        (
            ["train-00001-of-00002.jsonl"],
            "train-00000-of-00002.jsonl: expected 2 shards of 'train', but this file is missing",
        ),
        (
            ["train-00000-of-00001.jsonl", "train-00001-of-00001.jsonl"],
            "train-00001-of-00001.jsonl: expected 1 shards of 'train', but this file does not belong to the shards of "
            "train-00000-of-00001.jsonl",
        ),
        (
            ["train-00000-of-00001.jsonl", "train-00001-of-00002.jsonl"],
            "train-00001-of-00002.jsonl: expected 1 shards of 'train', but this file does not belong to the shards of "
            "train-00000-of-00001.jsonl",
        ),
        (
            ["train.jsonl", "train-00000-of-00001.jsonl"],
            "train.jsonl: expected one file or shards of 'train', but there are both; remove one of them",
        ),
    ],
)
def test_invalid_shards_raise(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path))}/{re.escape(message)}$"):
        check_shards(make(tmp_path, *names))
