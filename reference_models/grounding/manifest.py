"""Files of `i2srm data crops`: the journal from which it resumes, the manifest and the crop dictionary."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from reference_models.errors import UserError
from reference_models.files import write_text, write_whole

Key = str | int


def read_journal(path: Path, settings: str) -> dict[Key, list["Row"]]:
    """Read the rows of each dictionary key that an interrupted run completed; a truncated last line is skipped.

    Raises:
        UserError: If the run had other settings.
    """
    try:
        header, *lines = path.read_bytes().splitlines()
        begun_with = json.loads(header)["settings"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    if begun_with != settings:
        raise UserError(
            f"{path}: this file belongs to an interrupted run with other settings, data or weights; finish that run, "
            f"delete the file, or set grounding.overwrite to start again"
        )
    entries: dict[Key, list[Row]] = {}
    for line in lines:
        try:
            entry = json.loads(line)
            entries[entry["key"]] = [Row(**row) for row in entry["rows"]]
        except (ValueError, KeyError, TypeError):
            break
    return entries


def write_journal(path: Path, settings: str, entries: dict[Key, list["Row"]]) -> None:
    """Start a journal that contains `entries`."""
    lines = [json.dumps({"settings": settings}), *(_entry(key, rows) for key, rows in entries.items())]
    write_text(path, "\n".join(lines) + "\n")


def append_journal(path: Path, entries: dict[Key, list["Row"]]) -> None:
    """Append completed entries, whose crops must already be written."""
    with path.open("a") as journal:
        journal.write("".join(f"{_entry(key, rows)}\n" for key, rows in entries.items()))


def read_manifest(path: Path) -> list["Row"]:
    """Read the rows of a manifest; empty if the file does not exist or is not a manifest."""
    try:
        return [Row(**json.loads(line)) for line in path.read_text().splitlines()]
    except (OSError, ValueError, TypeError):
        return []


def write_manifest(path: Path, rows: Iterable["Row"]) -> None:
    """Write a manifest, one JSON object per line."""
    write_text(path, "".join(f"{json.dumps(asdict(row))}\n" for row in rows))


def crop_names(rows: Iterable["Row"]) -> dict[Key, list[str]]:
    """Build the crop dictionary from rows: no key for an unreadable image, an empty list if nothing was found."""
    names: dict[Key, list[str]] = {}
    for row in rows:
        if row.problem is None:
            names.setdefault(row.key, []).extend([row.crop] if row.crop else [])
    return names


def write_dictionary(path: Path, names: dict[Key, list[str]]) -> None:
    """Write a crop dictionary (keys to lists of crop file names) as a torch file, as published code expects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda part: torch.save(names, part))


def _entry(key: Key, rows: Iterable["Row"]) -> str:
    return json.dumps({"key": key, "rows": [asdict(row) for row in rows]})


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the manifest: a crop, or a sample without crops.

    Attributes:
        key: Key in the crop dictionary: the image name, or the row index in the label file.
        sample: Id of the sample that contains the phrase, or of the first sample with this image.
        image: Path of the image, relative to the data folder.
        phrase: Phrase for which the detector searched. None if it takes no phrases.
        box: Left, top, right, bottom in pixels of the image.
        score: Score of the box, 0 to 1.
        crop: Path of the crop, relative to the crop folder. None if nothing was found or the image is unreadable.
        problem: Why the image cannot be read.
        detector: Name of the detector.
        version: Version of the detector and its weights.
        settings: Twelve hex digits that identify everything the crops depend on, except the images.
    """

    key: Key
    sample: str
    image: str
    phrase: str | None = None
    box: list[int] | None = None
    score: float | None = None
    crop: str | None = None
    problem: str | None = None
    detector: str
    version: str
    settings: str
