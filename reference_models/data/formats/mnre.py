"""MNRE files: sentences with two marked entities and their relation, each with an image and object crops."""

import ast
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from reference_models.data.formats.base import DataFormat, register_format, relative_name
from reference_models.data.formats.layout import Layout
from reference_models.data.samples import Sample, Split, file_below, read_lines
from reference_models.errors import UserError
from reference_models.unique_keys import RepeatedKeyError, unique_keys

RELATION_IDS = "ours_rel2id.json"

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


def read_relations(root: Path) -> dict[str, int]:
    """Read the relations and their ids from `root/ours_rel2id.json`, in the order of the ids.

    Raises:
        UserError: If the file is not a JSON object that numbers relations from 0 without gaps.
    """
    path = root / RELATION_IDS
    text = "\n".join(read_lines(path))
    try:
        relations = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:  # ValueError also for a number with thousands of digits
        raise UserError(f"{path}: expected a JSON object of relation names to ids ({error})") from error
    if not isinstance(relations, dict) or not all(type(number) is int for number in relations.values()):
        raise UserError(
            f'{path}: expected a JSON object of relation names to integer ids, as in {{"None": 0}}, got {text[:80]!r}'
        )
    if sorted(relations.values()) != list(range(len(relations))):
        raise UserError(f"{path}: expected the ids 0, 1, 2, ..., each once, got {sorted(relations.values())}")
    if not relations:
        raise UserError(f"{path}: expected one relation or more, got none")
    return dict(sorted(relations.items(), key=lambda item: item[1]))


@register_format("mnre")
class Mnre(DataFormat):
    """The usual layout of MNRE in published code.

    Rows are in `txt/ours_{train,val,test}.txt`, images in `img_org/{train,val,test}/` and crops in
    `img_vg/{train,val,test}/crops/`. `txt/mre_{train,dev,test}_dict.pth` maps the index of a row (from 0) to its crops;
    extra keys are normal. Each row is a Python dict on one line, which is parsed as a literal and never executed. Its
    `caption` is read if present; other keys are ignored. The relations and their ids are in `ours_rel2id.json`.
    """

    task = "re"

    def layout(self, root: Path, split: Split) -> Layout:
        """See `DataFormat`; "ours_val .txt", the name of the public validation file, is accepted too."""
        part = TEXT_NAMES[split]
        path = root / "txt" / f"ours_{part}.txt"
        spaced = path.with_name(f"{path.stem} .txt")
        return Layout(
            labels=(spaced if spaced.is_file() and not path.is_file() else path,),
            images=root / "img_org" / part,
            crops=root / "img_vg" / part / "crops",
            dictionaries=(root / "txt" / f"mre_{DICTIONARY_NAMES[split]}_dict.pth",),
        )

    def labels(self, root: Path) -> list[str]:
        """See `DataFormat` and `read_relations`."""
        return list(read_relations(root))

    def read(
        self, root: Path, split: Split, *, pairs: bool | None = None, visual: bool = True, max_crops: int = 3
    ) -> Iterator[Sample]:
        """See `DataFormat`."""
        relations = read_relations(root)
        place = self.layout(root, split)
        [path] = place.labels
        crop_names: dict[int, tuple[str, ...]] = self.crop_names(root, split, max_crops) if visual else {}
        blank = 0  # number of the first blank line
        for number, line in enumerate(read_lines(path), start=1):
            if not line.strip():
                blank = blank or number
                continue
            if blank:  # a blank line would shift the crops of all later rows by one
                raise UserError(
                    f"{path}:{blank}: expected a row, got a blank line; remove it, because crops are assigned by the "
                    "index of a row in the file"
                )
            where = f"{path}:{number}"
            row = _row(line, where)
            if row["relation"] not in relations:
                raise UserError(
                    f"{where}: unknown relation {row['relation']!r}, expected one of those in {root / RELATION_IDS}"
                )
            names = crop_names.get(number - 1, ())
            yield Sample(
                id=f"{path.name}:{number}",
                words=tuple(row["token"]),
                image=file_below(place.images, row["img_id"], where) if visual else None,
                crops=tuple(file_below(place.crops, crop, f"{where}, its crops") for crop in names),
                head=tuple(row["h"]["pos"]),
                tail=tuple(row["t"]["pos"]),
                relation=row["relation"],
                image_texts=_caption(row.get("caption"), where),
            )

    def write(self, root: Path, samples: Mapping[Split, Sequence[Sample]], labels: Sequence[str] | None = None) -> None:
        """See `DataFormat`; without `labels`, the relations are numbered in alphabetical order."""
        (root / "txt").mkdir(parents=True, exist_ok=True)
        used = {sample.relation for rows in samples.values() for sample in rows if sample.relation is not None}
        for split, rows in samples.items():
            place = self.layout(root, split)
            lines, dictionary = [], {}
            for number, sample in enumerate(rows):
                if sample.image is None or sample.head is None or sample.tail is None or sample.relation is None:
                    raise UserError(
                        f"{sample.id}: expected an image and a relation of two entities, which the MNRE format needs"
                    )
                pair = {
                    key: {"name": " ".join(sample.words[slice(*span)]), "pos": list(span)}
                    for key, span in (("h", sample.head), ("t", sample.tail))
                }
                name = relative_name(sample.image, place.images, sample)
                row = {"token": list(sample.words), **pair, "img_id": name, "relation": sample.relation}
                lines.append(repr(row | dict(sample.image_texts)))
                dictionary[number] = [relative_name(crop, place.crops, sample) for crop in sample.crops]
            place.labels[0].write_text("\n".join(lines) + "\n", encoding="utf-8")
            torch.save(dictionary, place.dictionaries[0])
        ids = {name: number for number, name in enumerate(labels or sorted(used))}
        (root / RELATION_IDS).write_text(json.dumps(ids))


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        tree = ast.parse(line.lstrip(" \t"), mode="eval")
        row = ast.literal_eval(tree)
        _check_keys(tree.body)
    except RepeatedKeyError as error:
        raise UserError(f"{where}: {error}; merge the two values, or remove one") from error
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(
            f"{where}: expected a Python dict literal on one line, got code or a damaged row (not executed): "
            f"{line[:80]!r}"
        ) from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a Python dict literal, got {line[:80]!r}")
    for key, (expected, fits) in FIELDS.items():
        if key not in row:
            raise UserError(f"{where}: expected the key {key!r} ({expected}), got the keys {list(row)}")
        if not fits(row[key]):
            raise UserError(f"{where}: expected {expected} under {key!r}, got {str(row[key])[:80]!r}")
    return row


def _caption(value: Any, where: str) -> tuple[tuple[str, str], ...]:
    words = [value] if isinstance(value, str) else value
    if words is None:
        return ()
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{where}: expected a string or a list of words under 'caption', got {str(value)[:80]!r}")
    return (("caption", " ".join(words)),)


def _check_keys(literal: ast.expr) -> None:
    if isinstance(literal, ast.Dict):
        unique_keys([(ast.literal_eval(key), None) for key in literal.keys if key])
        for value in literal.values:
            _check_keys(value)
