"""JSON Lines files for your own data: one JSON object per line, with any labels."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reference_models.data.bio import Entity, spans, tags_of_spans
from reference_models.data.formats.base import SPLITS, DataFormat, register_format, relative_name
from reference_models.data.formats.layout import Layout
from reference_models.data.formats.shards import check_shards, split_files
from reference_models.data.image_texts import check_texts
from reference_models.data.samples import Sample, Split, file_below, read_objects
from reference_models.data.words import split_words
from reference_models.errors import UserError

KEYS = ("id", "tokens", "text", "image", "crops", "image_texts", "entities", "relations")


@register_format("jsonl")
class Jsonl(DataFormat):
    """Files `{train,valid,test}.jsonl` with one object per line, or shards such as `train-00000-of-00002.jsonl`.

    `tokens` is a list of words. Alternatively, `text` is a string that is split into words at white space. `entities`
    is a list of {"start", "end", "label"} with `end` exclusive, in words of `tokens` or in characters of `text`.
    `relations` is a list of {"head", "tail", "label"}; head and tail are indices into `entities` (from 0) or
    [start, end] in the same units. `image` and the list `crops` are paths relative to the folder of the data set. A
    line without `crops` uses the crop dictionary that `i2srm data crops` writes. `image_texts` is an object of texts
    about the image, such as {"caption": "two dogs"}.

    The task is relations if a line of the first existing split (train, valid, test) has relations, and named entities
    otherwise. Each relation is a sample.
    """

    task = "ner"
    suffix = ".jsonl"

    def objects(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        """Read the objects of a file, each with its line number.

        Raises:
            UserError: If the file cannot be read.
        """
        return read_objects(path)

    def layout(self, root: Path, split: Split) -> Layout:
        """See `DataFormat`; paths of images are relative to `root`."""
        return Layout(
            labels=split_files(root, split, self.suffix),
            images=root,
            crops=root / "crops" / split,
            dictionaries=(root / f"crops_{split}_dict.pth",),
        )

    def find_task(self, root: Path) -> str:
        """See `DataFormat`: relations if a line of the first existing split has any."""
        return "re" if self._has_relations(root) else self.task

    def read(
        self, root: Path, split: Split, *, pairs: bool | None = None, visual: bool = True, max_crops: int = 3
    ) -> Iterator[Sample]:
        """See `DataFormat`."""
        place = self.layout(root, split)
        check_shards(place.labels)
        pairs = self._has_relations(root) if pairs is None else pairs
        # The lines can list their crops, so a missing dictionary must not cause a warning.
        known = place.dictionary() is not None
        crop_names: dict[int, tuple[str, ...]] = self.crop_names(root, split, max_crops) if visual and known else {}
        number = 0
        for path, line, row in self._rows(place.labels):
            where = f"{path}:{line}"
            sentence = _sentence(row, where)
            entities = [_entity(entity, sentence, where) for entity in _list(row, "entities", where)]
            if pairs:
                labelled = [_relation(pair, entities, sentence, where) for pair in _list(row, "relations", where)]
            else:
                labelled = [{"tags": tags_of_spans(len(sentence.words), entities, where)}]
            for index, labels in enumerate(labelled, start=1):
                texts = check_texts(row.get("image_texts", {}), f"{where}, 'image_texts'")
                fields: dict[str, Any] = {"image_texts": tuple(texts.items())}
                if visual:
                    fields["image"] = _path(row.get("image"), root, f"{where}, 'image'")
                    fields["crops"] = _crops(row, root, place.crops, crop_names.get(number, ()), where)[:max_crops]
                name = f"{path.name}:{line}" + (f".{index}" if len(labelled) > 1 else "")
                yield Sample(id=name, words=sentence.words, **fields, **labels)
                number += 1
        if not number:
            raise UserError(f"{place.labels[0]}: expected lines with relations, but no line of this split has one")

    def write(self, root: Path, samples: Mapping[Split, Sequence[Sample]], labels: Sequence[str] | None = None) -> None:
        """See `DataFormat`; images and crops must be below `root`."""
        root.mkdir(parents=True, exist_ok=True)
        for split, rows in samples.items():
            path = root / f"{split}{self.suffix}"
            path.write_text("".join(f"{json.dumps(_line(sample, root))}\n" for sample in rows), encoding="utf-8")

    def _has_relations(self, root: Path) -> bool:
        splits = (self.layout(root, split).labels for split in SPLITS)
        first = next((files for files in splits if files[0].is_file()), ())
        return any(row.get("relations") for _, _, row in self._rows(first))

    def _rows(self, files: Sequence[Path]) -> Iterator[tuple[Path, int, dict[str, Any]]]:
        """Yield each object with its file and line number."""
        for path in files:
            for line, row in self.objects(path):
                if odd := [key for key in row if key not in KEYS]:
                    raise UserError(f"{path}:{line}: unknown key {odd[0]!r}, the known keys are {', '.join(KEYS)}")
                yield path, line, row


def _line(sample: Sample, root: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"tokens": sample.words}
    if sample.image is not None:
        row |= {"image": relative_name(sample.image, root, sample)}
    if sample.crops:
        row["crops"] = [relative_name(crop, root, sample) for crop in sample.crops]
    if sample.image_texts:
        row["image_texts"] = dict(sample.image_texts)
    if sample.tags is not None:
        row["entities"] = [
            {"start": start, "end": end, "label": kind} for start, end, kind in sorted(spans(sample.tags))
        ]
    if sample.relation is not None:
        row["relations"] = [{"head": sample.head, "tail": sample.tail, "label": sample.relation}]
    return row


def _list(row: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    value = row.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise UserError(f"{where}: expected a list of objects under {key!r}, got {str(value)[:80]!r}")
    return value


def _sentence(row: Mapping[str, Any], where: str) -> "_Sentence":
    if ("tokens" in row) == ("text" in row):
        raise UserError(
            f"{where}: expected either 'tokens' (a list of words) or 'text' (a string), got the keys {list(row)}"
        )
    if "tokens" in row:
        tokens = row["tokens"]
        if not isinstance(tokens, list) or not all(isinstance(word, str) for word in tokens):
            raise UserError(f"{where}: expected a list of words under 'tokens', got {str(tokens)[:80]!r}")
        return _Sentence(tuple(tokens), None, None)
    if not isinstance(row["text"], str):
        raise UserError(f"{where}: expected a string under 'text', got {str(row['text'])[:80]!r}")
    words = split_words(row["text"])
    starts = {word.start: number for number, word in enumerate(words)}
    ends = {word.end: number for number, word in enumerate(words, start=1)}
    return _Sentence(tuple(word.text for word in words), starts, ends)


def _entity(entity: Mapping[str, Any], sentence: "_Sentence", where: str) -> Entity:
    label = entity.get("label")
    if not isinstance(label, str) or not label:
        raise UserError(
            f"{where}: expected an entity with 'start', 'end' and 'label' (a non-empty string), got {entity}"
        )
    return (*sentence.span([entity.get("start"), entity.get("end")], where), label)


def _relation(pair: Mapping[str, Any], entities: Sequence[Entity], sentence: "_Sentence", where: str) -> dict[str, Any]:
    label = pair.get("label")
    if not isinstance(label, str) or not label:
        raise UserError(
            f"{where}: expected a relation with 'head', 'tail' and 'label' (a non-empty string), got {pair}"
        )
    found: dict[str, Any] = {"relation": label}
    for name in ("head", "tail"):
        value = pair.get(name)
        if type(value) is int:
            if not 0 <= value < len(entities):
                raise UserError(
                    f"{where}: expected '{name}' to be the index of one of the {len(entities)} 'entities' (from 0), "
                    f"got {value}"
                )
            found[name] = entities[value][:2]
        else:
            found[name] = sentence.span(value, where)
    return found


def _path(name: Any, root: Path, where: str) -> Path | None:
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: expected the path of a file (a non-empty string), got {str(name)[:80]!r}")
    return file_below(root, name, where)


def _crops(row: Mapping[str, Any], root: Path, folder: Path, known: Sequence[str], where: str) -> tuple[Path, ...]:
    if "crops" not in row:
        return tuple(file_below(folder, name, f"{where}, its crops") for name in known)
    if not isinstance(row["crops"], list):
        raise UserError(f"{where}: expected a list of paths under 'crops', got {str(row['crops'])[:80]!r}")
    paths = (_path(name, root, f"{where}, 'crops'") for name in row["crops"])
    return tuple(path for path in paths if path is not None)


@dataclass(frozen=True)
class _Sentence:
    """Words of a sentence, and for a `text` the index of the word that starts or ends at a character position."""

    words: tuple[str, ...]
    starts: Mapping[int, int] | None
    ends: Mapping[int, int] | None

    def span(self, bounds: Any, where: str) -> tuple[int, int]:
        """Convert the bounds of an entity in the line to a span of words [start, end)."""
        if not isinstance(bounds, list) or [type(bound) for bound in bounds] != [int, int]:
            raise UserError(f"{where}: expected the span of an entity as integers [start, end], got {bounds}")
        start, end = bounds
        if self.starts is None or self.ends is None:
            return start, end
        if start not in self.starts or end not in self.ends:
            raise UserError(
                f"{where}: the entity at characters [{start}, {end}] does not start and end at word boundaries; words "
                "are separated by white space, so insert a space there, or use 'tokens' instead of 'text'"
            )
        return self.starts[start], self.ends[end]
