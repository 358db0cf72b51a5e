"""The MNRE files: sentences with two marked entities and their relation, each with a picture and its object crops."""

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reference_models.data.samples import Sample, Split, file_below, read_crop_names, read_lines
from reference_models.errors import UserError

TEXT_NAMES = {"train": "train", "valid": "val", "test": "test"}
DICTIONARY_NAMES = {"train": "train", "valid": "dev", "test": "test"}


def _is_entity(value: Any) -> bool:
    span = value.get("pos") if isinstance(value, dict) else None
    return isinstance(span, list | tuple) and [type(bound) for bound in span] == [int, int]


FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "token": ("a list of words", lambda value: isinstance(value, list) and all(isinstance(w, str) for w in value)),
    "h": ("a dict whose 'pos' is [start, end], counted in words", _is_entity),
    "t": ("a dict whose 'pos' is [start, end], counted in words", _is_entity),
    "img_id": ("the file name of an image", lambda value: isinstance(value, str) and value != ""),
    "relation": ("the name of a relation", lambda value: isinstance(value, str)),
}


def mnre_file(root: Path, split: Split) -> Path:
    """The label file of a split; the public name of the validation file, "ours_val .txt", is accepted as well."""
    path = root / "txt" / f"ours_{TEXT_NAMES[split]}.txt"
    spaced = path.with_name(f"{path.stem} .txt")
    return spaced if spaced.is_file() and not path.is_file() else path


def read_relations(root: Path) -> dict[str, int]:
    """The relations of `root/ours_rel2id.json` and their ids, in the order of the ids.

    Raises:
        UserError: the file is no JSON object that numbers relations from 0 without a gap, "None" among them.
    """
    path = root / "ours_rel2id.json"
    text = "\n".join(read_lines(path))
    try:
        relations = json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise UserError(f"{path}: expected JSON, a dict of relation names to ids ({error})") from error
    if not isinstance(relations, dict) or not all(type(number) is int for number in relations.values()):
        raise UserError(f"{path}: expected a dict of relation names to ids (whole numbers)")
    if sorted(relations.values()) != list(range(len(relations))):
        raise UserError(f"{path}: expected ids from 0 up, each once, got {sorted(relations.values())}")
    if "None" not in relations:
        raise UserError(f"{path}: expected 'None' (no relation) among the relations, got {', '.join(relations)}")
    return dict(sorted(relations.items(), key=lambda item: item[1]))


def read_mnre(root: Path, split: Split, *, visual: bool = True, max_crops: int = 3) -> Iterator[Sample]:
    """Read one split, sample by sample, of a data set in the layout that the field's code bases share.

    Rows are in `txt/ours_{train,val,test}.txt`, pictures in `img_org/{train,val,test}/`, crops in
    `img_vg/{train,val,test}/crops/`, and which crops belong to which row in `txt/mre_{train,dev,test}_dict.pth`, by the
    row's place in its file, from 0 (keys without a row are normal). Each row is a Python dict on one line, read as a
    literal and never executed; keys beyond those needed are ignored. Whether pictures and crops exist is not looked at
    here.

    Args:
        root: the folder that holds `txt`.
        split: which part.
        visual: False reads the text alone and touches neither pictures nor dictionary.
        max_crops: how many crops a sample keeps at most, the first ones of the dictionary.

    Raises:
        UserError: naming file, line, what was expected and what came.
    """
    relations = read_relations(root)
    path = mnre_file(root, split)
    crop_names: dict[int, tuple[str, ...]] = {}
    if visual and max_crops:
        crop_names = read_crop_names([path.with_name(f"mre_{DICTIONARY_NAMES[split]}_dict.pth")], int, max_crops)
    images = root / "img_org" / TEXT_NAMES[split]
    crops = root / "img_vg" / TEXT_NAMES[split] / "crops"

    blank = 0  # number of the first blank line
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            blank = blank or number
            continue
        if blank:  # one gap would give every later row the crops of its neighbour
            raise UserError(
                f"{path}:{blank}: expected a row, got a blank line; crops are found by a row's place in the file"
            )
        where = f"{path}:{number}"
        try:
            row = ast.literal_eval(line)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise UserError(
                f"{where}: expected a Python dict literal, got code or a damaged row (not executed): {line[:80]!r}"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected a Python dict literal, got {line[:80]!r}")
        for key, (expected, fits) in FIELDS.items():
            if key not in row:
                raise UserError(f"{where}: expected the key {key!r} ({expected}), got the keys {list(row)}")
            if not fits(row[key]):
                raise UserError(f"{where}: expected {expected} under {key!r}, got {str(row[key])[:80]!r}")
        if row["relation"] not in relations:
            raise UserError(f"{where}: unknown relation {row['relation']!r}, it is not in {root / 'ours_rel2id.json'}")
        yield Sample(
            id=f"{path.name}:{number}",
            words=tuple(row["token"]),
            image=file_below(images, row["img_id"], where) if visual else None,
            crops=tuple(file_below(crops, crop, f"{where}, its crops") for crop in crop_names.get(number - 1, ())),
            head=tuple(row["h"]["pos"]),
            tail=tuple(row["t"]["pos"]),
            relation=row["relation"],
        )
