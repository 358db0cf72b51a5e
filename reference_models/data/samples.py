"""The sample class of all tasks, and file readers that several data formats share."""

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
from reference_models.unique_keys import RepeatedKeyError, unique_keys

logger = logging.getLogger(__name__)

Key = TypeVar("Key", str, int)
Split = Literal["train", "valid", "test"]

HALF = re.compile("[\ud800-\udfff]")  # one half of a surrogate pair


def read_lines(path: Path) -> Iterator[str]:
    r"""Read the lines of a UTF-8 text file one by one, without line ends.

    Only "\n" and "\r\n" end a line. `str.splitlines` would also split at other characters that occur in tweets.

    Raises:
        UserError: If the file cannot be read, contains only white space, or a line is not UTF-8.
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
        raise UserError(
            f"{path}:{number}: expected UTF-8, byte {error.start + 1} of the line is not; save the file as UTF-8"
        ) from error
    if empty:
        raise UserError(f"{path}: the file is empty")


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the objects of a JSON Lines file, each with its line number. Blank lines are skipped.

    Raises:
        UserError: If `read_lines` raises it, a line is not a JSON object, or an object, also a nested one, has a key
            twice.
    """
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=unique_keys)
        except RepeatedKeyError as error:
            raise UserError(f"{path}:{number}: {error}; merge the two values, or remove one") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: expected a JSON object, got {line[:80]!r} ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, got {line[:80]!r}")
        yield number, row


def read_crop_names(candidates: Sequence[Path], key_type: type[Key], max_crops: int) -> dict[Key, tuple[str, ...]]:
    """Read a crop dictionary, which maps each sample or image to the file names of its crops.

    Crops are optional. If there is no dictionary, a warning is logged.

    Args:
        candidates: Possible paths of the dictionary. The first file that exists is read.
        key_type: Type of the keys: `str` for image names, `int` for row indices.
        max_crops: Maximum number of names to keep per key, the first ones.

    Returns:
        The crop names by key; empty without a dictionary.

    Raises:
        UserError: If `max_crops` is negative, or the file is not a torch file with a dict of `key_type` to lists of
            strings. Nothing in the file is executed.
    """
    if max_crops < 0:
        raise UserError(f"max_crops must be 0 or more, got {max_crops}")
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        logger.warning(
            "%s: this crop dictionary does not exist, so no sample of this split has object crops; "
            "`i2srm data crops` can make them",
            candidates[0],
        )
        return {}
    expected = f"expected a torch file with a dict of {key_type.__name__} to lists of crop file names (strings)"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail with almost any exception
        raise UserError(
            f"{path}: {expected}, got a damaged file or one with other objects (not executed); make it again"
        ) from error
    if type(content) is not dict:
        raise UserError(f"{path}: {expected}, got {type(content).__name__}")
    for key, names in content.items():
        if type(key) is not key_type:
            raise UserError(f"{path}: {expected}, got the key {key!r}")
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise UserError(f"{path}: {expected}, got something other than strings under the key {key!r}")
        content[key] = tuple(names[:max_crops])  # in place, to avoid a second dictionary in memory
    return content


def file_below(folder: Path, name: str, where: str) -> Path:
    """Return the path of a file named in a data file.

    Args:
        folder: Folder of such files.
        name: Name from the data file, relative to `folder`.
        where: Location of the name (file and line), for the message.

    Returns:
        The path below the folder.

    Raises:
        UserError: If the name is absolute, contains "..", or contains a character that is invalid in a path.
    """
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or HALF.search(name):
        raise UserError(
            f"{where}: expected the name of a file below {folder} (a relative path without '..'), got {name[:80]!r}"
        )
    return folder / path


def fingerprint(paths: Iterable[Path]) -> str:
    """Return the data fingerprint of label files: the first twelve hex digits of `cat FILES | sha256sum`."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # continues the digest of the previous files
    return digest.hexdigest()[:12]


def spooled(samples: Iterable[Sample]) -> Spool[Sample]:
    """Store samples in a temporary file, see `Spool`."""
    return Spool(samples, Sample.to_json, Sample.from_json)


@dataclass(frozen=True)
class Region:
    """An annotated region of an image.

    Attributes:
        left, top, right, bottom: Bounds as fractions of the image's width and height, from its top left corner.
        phrase: Phrase of the sentence that names the region.
    """

    left: float
    top: float
    right: float
    bottom: float
    phrase: str


@dataclass(frozen=True)
class Sample:
    """A sentence with its image and, if known, its labels.

    Attributes:
        id: Label file and 1-based line where the sample starts, such as "train.txt:12".
        words: Words of the sentence.
        image: Path of the whole image. None if there is no image or it must not be used.
        crops: Paths of its object crops, in the order of the crop dictionary.
        tags: For NER, "O", "B-TYPE" or "I-TYPE" for each word.
        head: For RE, the head entity as a span of words [start, end).
        tail: For RE, the tail entity as a span of words [start, end).
        relation: For RE, the relation from head to tail.
        image_texts: Texts about the image as (kind, text), such as ("caption", "two dogs on a beach").
        regions: Annotated regions of the image, in the order in which the sentence names them.

    Raises:
        UserError: If the sentence has no words, a word is empty or contains a lone surrogate, the tags do not match the
            words, or a span is empty or not inside the sentence.
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
            raise UserError(f"{self.id}: expected a sentence of non-empty words, got {list(self.words) or 'no words'}")
        if HALF.search("".join(self.words)):
            raise UserError(
                f"{self.id}: a word contains half a character (a lone surrogate), which tokenizers cannot read; remove "
                "or replace it"
            )
        if self.tags is not None:
            if len(self.tags) != len(self.words):
                raise UserError(
                    f"{self.id}: expected one tag for each word, got {len(self.tags)} tags for {len(self.words)} words"
                )
            for tag in self.tags:
                check_tag(tag, self.id)
        if (self.head is None) != (self.tail is None):
            raise UserError(f"{self.id}: expected both head and tail, got head {self.head} and tail {self.tail}")
        for name, span in (("head", self.head), ("tail", self.tail)):
            if span is not None and not 0 <= span[0] < span[1] <= len(self.words):
                raise UserError(
                    f"{self.id}: the {name} entity's span {list(span)} is empty or not inside the sentence of "
                    f"{len(self.words)} words (start counts from 0, end is exclusive)"
                )

    def to_json(self) -> dict[str, Any]:
        """Return the sample as plain types for `json.dump`."""
        paths = {"image": self.image and str(self.image), "crops": [str(path) for path in self.crops]}
        return {**vars(self), **paths, "regions": [vars(region) for region in self.regions]}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Sample:
        """Rebuild a sample from the output of `to_json`, also after a round trip through JSON."""
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
