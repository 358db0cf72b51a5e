"""A split: long relations are an error or are left out and named; pictures are loaded with their sample."""

import logging
from pathlib import Path

import pytest
from PIL import Image

from reference_models.data.dataset import EncodedSplit
from reference_models.data.processor import Processor, TooLongError
from reference_models.data.samples import Sample
from reference_models.data.tokenizer import learn_tokenizer

SHORT = Sample("f:1", ("a", "b"), head=(0, 1), tail=(1, 2), relation="None")
LONG = Sample("f:2", ("a",) * 30, head=(0, 1), tail=(29, 30), relation="None")


def make(image_size: int | None = None) -> Processor:
    return Processor(learn_tokenizer([["a", "b"]] * 4, 50), "re", ["None"], max_length=16, image_size=image_size)


def test_a_long_relation_stops_by_default() -> None:
    with pytest.raises(TooLongError, match="f:2"):
        EncodedSplit([SHORT, LONG], make())


def test_a_dropped_relation_is_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        split = EncodedSplit([LONG, SHORT, LONG], make(), "drop")
    assert (len(split), split.samples, split.dropped) == (1, [SHORT], ["f:2", "f:2"])
    assert "2 samples too long, dropped: f:2, f:2" in caplog.text


def test_pictures_come_with_their_sample(tmp_path: Path) -> None:
    Image.new("RGB", (6, 6), (7, 8, 9)).save(tmp_path / "a.png")
    sample = Sample("f:1", ("a", "b"), tmp_path / "a.png", head=(0, 1), tail=(1, 2), relation="None")
    split = EncodedSplit([sample], make(4))
    pixels, present = split[0]["pixels"]
    assert pixels[0, :, 0, 0].tolist() == [7, 8, 9]
    assert present.tolist() == [True, False, False, False]
    assert "pixels" not in EncodedSplit([sample], make())[0]
