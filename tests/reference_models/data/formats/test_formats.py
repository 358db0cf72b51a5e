"""The registry of data formats, and the behaviour that all formats share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reference_models.data.formats import DataFormat, Jsonl, Layout, get_format, list_formats, register_format
from reference_models.data.formats.base import relative_name
from reference_models.data.samples import Sample, Split
from reference_models.errors import UserError


def test_formats_are_registered_by_name() -> None:
    assert list_formats() == ["conll", "flickr30k_entities", "jsonl", "mnre", "parquet", "twitter"]
    assert all(get_format(name).name == name for name in list_formats())
    with pytest.raises(UserError, match="unknown data format 'tweets', expected one of conll, flickr30k_entities"):
        get_format("tweets")
    assert register_format("jsonl")(Jsonl) is Jsonl

    class Other(Jsonl):
        pass

    with pytest.raises(ValueError, match="the data format 'jsonl' is already registered: Jsonl"):
        register_format("jsonl")(Other)


def test_defaults_of_a_read_only_format(tmp_path: Path) -> None:
    class Mine(DataFormat):
        name, task = "mine", "ner"

        def layout(self, root: Path, split: Split) -> Layout:
            return Layout((root / f"{split}.mine",), root, root)

        def read(self, root: Path, split: Split, **options: object) -> Iterator[Sample]:
            yield Sample("a:1", ("a",))

    with pytest.raises(UserError, match="the data format mine is read-only; write another format, such as jsonl"):
        Mine().write(tmp_path, {})
    assert Mine().labels(tmp_path) is None
    assert Mine().find_task(tmp_path) == "ner"
    assert not Mine().recognises(tmp_path)
    (tmp_path / "valid.mine").touch()
    assert Mine().recognises(tmp_path)


def test_relative_name_outside_the_folder_raises() -> None:
    sample = Sample("a:1", ("a",))
    assert relative_name(Path("data/a/b.jpg"), Path("data"), sample) == "a/b.jpg"
    with pytest.raises(UserError, match=r"a:1: expected other/b\.jpg to be below data"):
        relative_name(Path("other/b.jpg"), Path("data"), sample)
