"""What a run of `i2srm data crops` writes: the journal it resumes from, then manifest and crop dictionary."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from reference_models.errors import UserError
from reference_models.files import write_text, write_whole

Key = str | int


def read_journal(path: Path, settings: str) -> dict[Key, list["Row"]]:
    """The rows of each dictionary key that a stopped run has completed; what its last moment left half is passed over.

    Raises:
        UserError: the run had other settings.
    """
    try:
        header, *lines = path.read_bytes().splitlines()
        begun_with = json.loads(header)["settings"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    if begun_with != settings:
        raise UserError(
            f"{path}: a run with other settings, data or weights was stopped here; finish it with those, delete the "
            f"file, or set grounding.overwrite to begin anew"
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
    """Begin a journal that already holds `entries`."""
    lines = [json.dumps({"settings": settings}), *(_entry(key, rows) for key, rows in entries.items())]
    write_text(path, "\n".join(lines) + "\n")


def append_journal(path: Path, entries: dict[Key, list["Row"]]) -> None:
    """Note what is complete; the crops must have been written before."""
    with path.open("a") as journal:
        journal.write("".join(f"{_entry(key, rows)}\n" for key, rows in entries.items()))


def read_manifest(path: Path) -> list["Row"]:
    """The rows of a manifest; none if there is none, or the file is something else."""
    try:
        return [Row(**json.loads(line)) for line in path.read_text().splitlines()]
    except (OSError, ValueError, TypeError):
        return []


def write_manifest(path: Path, rows: Iterable["Row"]) -> None:
    """One JSON object on each line."""
    lines = [json.dumps(asdict(row)) for row in rows]
    write_text(path, "\n".join(lines) + "\n")


def crop_names(rows: Iterable["Row"]) -> dict[Key, list[str]]:
    """The crop dictionary that the rows stand for: no key for a bad image, an empty list where nothing was found."""
    names: dict[Key, list[str]] = {}
    for row in rows:
        if row.problem is None:
            names.setdefault(row.key, []).extend([row.crop] if row.crop else [])
    return names


def write_dictionary(path: Path, names: dict[Key, list[str]]) -> None:
    """The field's file: torch's, of keys to lists of crop file names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda part: torch.save(names, part))


def _entry(key: Key, rows: Iterable["Row"]) -> str:
    return json.dumps({"key": key, "rows": [asdict(row) for row in rows]})


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the manifest: a crop, or a sample that has none.

    Attributes:
        key: of the crop dictionary: the image's name, or the row's place in its label file.
        sample: id of the sample that says the phrase, or of the first with this image.
        image: path of the image, from the data folder.
        phrase: what the detector looked for; None if it takes no phrases.
        box: left, top, right, bottom in pixels of the image.
        score: of the box, 0 to 1.
        crop: path of the crop, below the crops folder; None if nothing was found, or for a bad image.
        problem: why the image cannot be read.
        detector: its name.
        version: of the detector and its weights.
        settings: twelve hex digits that name everything the crops depend on, the images excepted.
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
