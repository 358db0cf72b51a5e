"""Texts about images, such as object tags, captions or the words in an image, in a file beside each split."""

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
    """Where the texts of a split are, in every data format."""
    return root / f"image_texts_{split}.jsonl"


def read_image_texts(path: Path) -> ImageTexts:
    """The texts of a JSON Lines file, `{"image": "1.jpg", "tags": "red car", "caption": "a car"}` on each line.

    Args:
        path: of the file. Images are named by their paths below the split's folder of images; any other key is a kind
            of text.

    Returns:
        For each image its texts by kind; several lines of an image are joined, and of one kind the last counts.

    Raises:
        UserError: the file cannot be read, or a line is something else.
    """
    texts: ImageTexts = {}
    for number, row in read_objects(path):
        where = f"{path}:{number}"
        if "image" not in row:
            raise UserError(f"{where}: expected an object with the name of an 'image' and texts, got {str(row)[:80]!r}")
        image = row.pop("image")
        if not isinstance(image, str):
            raise UserError(f"{where}: expected the name of a file under 'image', got {image!r}")
        texts.setdefault(image, {}).update(check_texts(row, where))
    return texts


def check_texts(texts: Any, where: str) -> dict[str, str]:
    """Texts by kind, such as {"caption": "two dogs"}.

    Raises:
        UserError: something else, or a text with half a character.
    """
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise UserError(f"{where}: expected an object of texts about the image by kind, got {str(texts)[:80]!r}")
    for kind, text in texts.items():
        if HALF.search(text):
            raise UserError(f"{where}: the text {kind!r} holds half a character (a lone surrogate)")
    return texts


def write_image_texts(path: Path, texts: Mapping[str, Mapping[str, str]]) -> None:
    """Write what `read_image_texts` reads; the file appears whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    lines = (f"{json.dumps({'image': image} | dict(own), ensure_ascii=False)}\n" for image, own in texts.items())
    write_text(path, "".join(lines))


def add_image_texts(samples: Iterable[Sample], path: Path, images: Path) -> Iterator[Sample]:
    """Give samples the texts of their images; those that a sample has already stay, unless the file has that kind.

    Args:
        samples: of one split, with images.
        path: of the split's texts; without such a file, the samples stay as they are.
        images: the folder that the names of images begin at.

    Returns:
        The samples in their order, one by one.
    """
    texts = read_image_texts(path) if path.is_file() else {}
    for sample in samples:
        found = {} if sample.image is None else texts.get(sample.image.relative_to(images).as_posix(), {})
        yield replace(sample, image_texts=tuple((dict(sample.image_texts) | found).items())) if found else sample
