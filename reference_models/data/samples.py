"""One sample of either task, and the reading of files that both data sets share."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar

import torch

from reference_models.data.bio import check_tag
from reference_models.data.spool import Spool
from reference_models.errors import UserError

logger = logging.getLogger(__name__)

Key = TypeVar("Key", str, int)
Split = Literal["train", "valid", "test"]

HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair


def read_lines(path: Path) -> Iterator[str]:
    r"""The lines of a UTF-8 text file one by one, without line ends.

    Only "\n" and "\r\n" end a line: tweets hold other characters that `str.splitlines` would break at.

    Raises:
        UserError: the file cannot be read, holds nothing, or a line is not UTF-8.
    """
    empty = True
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                line = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
                empty = empty and not line.strip()
                yield line
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: expected UTF-8, byte {error.start + 1} of the line is not") from error
    if empty:
        raise UserError(f"{path}: the file is empty")


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file, each with the number of its line; empty lines are passed over.

    Raises:
        UserError: as `read_lines`, or a line is something else.
    """
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: expected a JSON object, got {line[:80]!r} ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, got {line[:80]!r}")
        yield number, row


def read_crop_names(candidates: Sequence[Path], key_type: type[Key], max_crops: int) -> dict[Key, tuple[str, ...]]:
    """A crop dictionary: what identifies a sample or its image -> the file names of its first `max_crops` crops.

    Args:
        candidates: where the dictionary may lie; the first file that exists is read. If none does, a warning says that
            the samples have no crops: crops come from other people's detectors and are optional.
        key_type: `str` for image names, `int` for row indices.
        max_crops: how many names to keep of each list.

    Returns:
        The names by key; empty without a dictionary.

    Raises:
        UserError: the file is no torch file, or holds anything but a dict of `key_type` to lists of strings. Nothing
            in the file is executed.
    """
    if max_crops < 0:
        raise UserError(f"max_crops must be 0 or more, got {max_crops}")
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        logger.warning("%s: no crop dictionary here, so no sample of this split has object crops", candidates[0])
        return {}
    expected = f"expected a torch file with a dict of {key_type.__name__} to lists of crop file names (strings)"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail with almost any exception
        raise UserError(
            f"{path}: {expected}; this one holds something other than strings, or is damaged, and was not executed"
        ) from error
    if type(content) is not dict:
        raise UserError(f"{path}: {expected}, got {type(content).__name__}")
    for key, names in content.items():
        if type(key) is not key_type:
            raise UserError(f"{path}: {expected}, got the key {key!r}")
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise UserError(f"{path}: {expected}, got something other than strings under the key {key!r}")
        content[key] = tuple(names[:max_crops])  # in its place, so that no second dictionary is in memory
    return content


def file_below(folder: Path, name: str, where: str) -> Path:
    """The path of a file that a data file names.

    Args:
        folder: where such files are.
        name: as the data file has it.
        where: file and line, or key, for the message.

    Returns:
        The path below the folder.

    Raises:
        UserError: the name is absolute, leads out of the folder, or holds a character that no path can.
    """
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or HALF.search(name):
        raise UserError(
            f"{where}: expected the name of a file below {folder}, got {name[:80]!r}, which is not below it"
        )
    return folder / path


def fingerprint(paths: Iterable[Path]) -> str:
    """Twelve hex digits that name this version of the label files (`cat FILES | sha256sum` begins with the same)."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # goes on with the bytes of the files before
    return digest.hexdigest()[:12]


def spooled(samples: Iterable[Sample]) -> Spool[Sample]:
    """Samples in a temporary file; see `Spool`."""
    return Spool(samples, Sample.to_json, Sample.from_json)


@dataclass(frozen=True)
class Region:
    """What annotators marked in an image.

    Attributes:
        left, top, right, bottom: bounds as shares of the image's width and height, from its left and its top.
        phrase: the words that name it.
    """

    left: float
    top: float
    right: float
    bottom: float
    phrase: str


@dataclass(frozen=True)
class Sample:
    """A sentence with its image, and its labels where they are known.

    Attributes:
        id: label file and 1-based line where the sample starts, as in "train.txt:12".
        words: the sentence.
        image: the whole image; None where there is none, or where it is not to be used.
        crops: its object crops, in the order of the crop dictionary.
        tags: for NER, "O", "B-TYPE" or "I-TYPE" for each word.
        head: for RE, the head entity as a span of words [start, end).
        tail: for RE, the tail entity as a span of words [start, end).
        relation: for RE, the relation from head to tail.
        image_texts: texts about the image, each with its kind, as in ("caption", "two dogs on a beach").
        regions: what annotators marked in the image, in the order in which the sentence names it.

    Raises:
        UserError: no word, an empty or unreadable word, tags that do not fit the words, or a span that is not inside
            the sentence.
    """

    id: str
    words: tuple[str, ...]
    image: Path | None = None
    crops: tuple[Path, ...] = ()
    tags: tuple[str, ...] | None = None
    head: tuple[int, int] | None = None
    tail: tuple[int, int] | None = None
    relation: str | None = None
    image_texts: tuple[tuple[str, str], ...] = ()
    regions: tuple[Region, ...] = ()

    def __post_init__(self) -> None:
        if not self.words or not all(self.words):
            raise UserError(f"{self.id}: expected a sentence of non-empty words, got {list(self.words)}")
        if HALF.search("".join(self.words)):
            raise UserError(f"{self.id}: a word holds half a character (a lone surrogate), which no tokenizer can read")
        if self.tags is not None:
            if len(self.tags) != len(self.words):
                raise UserError(f"{self.id}: got {len(self.tags)} tags for {len(self.words)} words, expected as many")
            for tag in self.tags:
                check_tag(tag, self.id)
        if (self.head is None) != (self.tail is None):
            raise UserError(f"{self.id}: expected head and tail together, got head {self.head} and tail {self.tail}")
        for name, span in (("head", self.head), ("tail", self.tail)):
            if span is not None and not 0 <= span[0] < span[1] <= len(self.words):
                raise UserError(
                    f"{self.id}: the {name} entity's span {list(span)} is empty or not inside the sentence of "
                    f"{len(self.words)} words (start counts from 0, end is not included)"
                )

    def to_json(self) -> dict[str, Any]:
        """Everything as plain types, ready for `json.dump`."""
        paths = {"image": self.image and str(self.image), "crops": [str(path) for path in self.crops]}
        return {**vars(self), **paths, "regions": [vars(region) for region in self.regions]}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Sample:
        """The sample that `to_json`, and JSON, made this of."""
        image, crops, tags, head, tail = (row[name] for name in ("image", "crops", "tags", "head", "tail"))
        return cls(
            id=row["id"],
            words=tuple(row["words"]),
            image=image and Path(image),
            crops=tuple(map(Path, crops)),
            tags=tags and tuple(tags),
            head=head and tuple(head),
            tail=tail and tuple(tail),
            relation=row["relation"],
            image_texts=tuple((kind, text) for kind, text in row["image_texts"]),
            regions=tuple(Region(**region) for region in row["regions"]),
        )
