"""Image texts, such as object tags, captions or OCR, stored in one file per split."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reference_models.data.samples import HALF, Sample, read_objects
from reference_models.errors import UserError
from reference_models.files import write_text

ImageTexts = dict[str, dict[str, str]]


def image_texts_path(root: Path, split: str) -> Path:
    """Return the path of the image texts of a split; it is the same for every data format."""
    return root / f"image_texts_{split}.jsonl"


def read_image_texts(path: Path) -> ImageTexts:
    """Read a JSON Lines file with lines such as `{"image": "1.jpg", "tags": "red car", "caption": "a car"}`.

    Args:
        path: Path of the file. `image` is a path relative to the image folder of the split; every other key is a kind
            of text.

    Returns:
        The texts of each image by kind. Several lines for one image are merged; for the same kind, the last line wins.

    Raises:
        UserError: If the file cannot be read or a line is invalid.
    """
    texts: ImageTexts = {}
    for number, row in read_objects(path):
        where = f"{path}:{number}"
        if "image" not in row:
            raise UserError(
                f"{where}: expected an object with the file name of an image under 'image' and texts under other keys, "
                f"got {str(row)[:80]!r}"
            )
        image = row.pop("image")
        if not isinstance(image, str):
            raise UserError(f"{where}: expected the file name of an image (a string) under 'image', got {image!r}")
        texts.setdefault(image, {}).update(check_texts(row, where))
    return texts


def check_texts(texts: Any, where: str) -> dict[str, str]:
    """Return the texts unchanged if they are a dict of kinds to strings, such as {"caption": "two dogs"}.

    Raises:
        UserError: If they are something else, or a text contains a lone surrogate.
    """
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise UserError(
            f'{where}: expected an object of image texts by kind, as in {{"caption": "two dogs"}}, '
            f"got {str(texts)[:80]!r}"
        )
    for kind, text in texts.items():
        if HALF.search(text):
            raise UserError(
                f"{where}: the text under {kind!r} contains half a character (a lone surrogate); remove or replace it"
            )
    return texts


def write_image_texts(path: Path, texts: Mapping[str, Mapping[str, str]]) -> None:
    """Write a file for `read_image_texts` atomically.

    Raises:
        UserError: If the file cannot be written.
    """
    lines = (f"{json.dumps({'image': image} | dict(own), ensure_ascii=False)}\n" for image, own in texts.items())
    write_text(path, "".join(lines))


def add_image_texts(samples: Iterable[Sample], path: Path, images: Path) -> Iterator[Sample]:
    """Add image texts from a file to samples. Texts that a sample already has are kept unless the file has that kind.

    Args:
        samples: Samples of one split, with images.
        path: Path of the image texts. If the file does not exist, the samples are unchanged.
        images: Image folder of the split; the file names images relative to it.

    Yields:
        The samples in the same order.
    """
    texts = read_image_texts(path) if path.is_file() else {}
    for sample in samples:
        found = {} if sample.image is None else texts.get(sample.image.relative_to(images).as_posix(), {})
        yield replace(sample, image_texts=tuple((dict(sample.image_texts) | found).items())) if found else sample
