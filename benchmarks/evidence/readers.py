"""Readers of the public data sets: rows with text and label, split into training, validation and test rows."""

import csv
import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from sklearn import datasets

from reference_models.data.formats.mnre import Mnre, read_relations
from reference_models.data.formats.twitter import Twitter
from reference_models.data.samples import Sample, Split, read_lines
from reference_models.errors import UserError

Kind = Literal["sentences", "relations", "entities", "numbers"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
# BANKING77 has no validation split, so this number of training rows per class is held out, the same for all subsets.
HELD_OUT = 10


@dataclass(frozen=True)
class Row:
    """A sample: text (a string or words), label (or one tag per word), and spans of words to pool."""

    text: str | tuple[str, ...]
    label: str | tuple[str, ...]
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def tags(self) -> tuple[str, ...]:
        """The tag of each word, or the label alone."""
        return (self.label,) if isinstance(self.label, str) else self.label


@dataclass(frozen=True)
class Texts:
    """A data set of sentences.

    Attributes:
        kind: ``"sentences"`` with one label each, ``"relations"`` of two spans, or ``"entities"`` with a tag per word.
        rows: Rows of each split.
        labels: Names of the classes or tags.
    """

    kind: Kind
    rows: dict[Split, list[Row]]
    labels: tuple[str, ...]

    def fingerprint(self) -> str:
        """Return a hash of the data."""
        return hashlib.sha256(repr((self.kind, self.rows, self.labels)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Numbers:
    """Tabular data from scikit-learn; each seed draws its own split."""

    features: np.ndarray
    classes: np.ndarray

    kind: Kind = "numbers"

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(str(label) for label in range(int(self.classes.max()) + 1))

    def fingerprint(self) -> str:
        """Return a hash of the data."""
        return hashlib.sha256(self.features.tobytes() + self.classes.tobytes()).hexdigest()[:16]


def read_banking77(folder: Path) -> Texts:
    """Read BANKING77: ``train.csv`` and ``test.csv`` with the columns text and category."""
    train = [Row(text, label) for text, label in _csv_rows(folder / "train.csv")]
    by_class = defaultdict(list)
    for number, row in enumerate(train):
        by_class[row.label].append(number)
    draw = random.Random(0)
    held = {number for numbers in by_class.values() for number in draw.sample(numbers, HELD_OUT)}
    rows: dict[Split, list[Row]] = {
        "train": [row for number, row in enumerate(train) if number not in held],
        "valid": [train[number] for number in sorted(held)],
        "test": [Row(text, label) for text, label in _csv_rows(folder / "test.csv")],
    }
    return Texts("sentences", rows, _label_names(row.label for row in train))


def _csv_rows(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield row["text"], row["category"]


def clinc150_reader(version: str) -> Callable[[Path], Texts]:
    """Return a reader of CLINC150: ``data_{version}.json``, without the out-of-scope rows."""

    def read(folder: Path) -> Texts:
        content = json.loads((folder / f"data_{version}.json").read_text(encoding="utf-8"))
        names: dict[Split, str] = {"train": "train", "valid": "val", "test": "test"}
        rows = {split: [Row(text, label) for text, label in content[name]] for split, name in names.items()}
        return Texts("sentences", rows, _label_names(row.label for row in rows["train"]))

    return read


def read_relation_rows(folder: Path) -> Texts:
    """Read MNRE, text only: the relation between a head and a tail entity."""
    rows = {split: [_relation_row(sample) for sample in Mnre().read(folder, split, visual=False)] for split in SPLITS}
    return Texts("relations", rows, tuple(read_relations(folder)))


def _relation_row(sample: Sample) -> Row:
    if sample.relation is None or sample.head is None or sample.tail is None:
        raise UserError(f"{sample.id}: expected a relation and two entities")
    return Row(sample.words, sample.relation, (sample.head, sample.tail))


def read_twitter_rows(folder: Path) -> Texts:
    """Read Twitter-2015 or Twitter-2017, text only."""
    rows = {
        split: [Row(s.words, s.tags or ()) for s in Twitter().read(folder, split, visual=False)] for split in SPLITS
    }
    return _tagged(rows)


def read_wnut17(folder: Path) -> Texts:
    """Read WNUT17: ``{train,valid,test}.txt``, a word, a tab and a BIO tag per line, sentences split by blank lines."""
    return _tagged({split: list(_column_rows(folder / f"{split}.txt")) for split in SPLITS})


def _column_rows(path: Path) -> Iterator[Row]:
    words: list[tuple[str, str]] = []
    for number, line in enumerate([*read_lines(path), ""], start=1):
        if line.strip():
            word, tab, tag = line.partition("\t")
            if not tab or not word:
                raise UserError(f"{path}:{number}: expected a word, a tab and a tag, got {line!r}")
            words.append((word, tag.strip()))
        elif words:
            texts, tags = zip(*words, strict=True)
            yield Row(texts, tags)
            words = []


def _tagged(rows: dict[Split, list[Row]]) -> Texts:
    tags = {tag for split in SPLITS for row in rows[split] for tag in row.label}
    return Texts("entities", rows, ("O", *sorted(tags - {"O"})))


def _label_names(labels: Iterable[str | tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({str(label) for label in labels}))


def _numbers(load: Callable[..., tuple[np.ndarray, np.ndarray]]) -> Callable[[Path], Numbers]:
    return lambda _: Numbers(*load(return_X_y=True))


# Folder of each source inside the data folder (empty if scikit-learn ships the data), and its reader.
SOURCES: dict[str, tuple[str, Callable[[Path], Texts | Numbers]]] = {
    "banking77": ("banking77", read_banking77),
    "clinc150_small": ("clinc150", clinc150_reader("small")),
    "clinc150_imbalanced": ("clinc150", clinc150_reader("imbalanced")),
    "mnre": ("mnre", read_relation_rows),
    "twitter2015": ("twitter2015", read_twitter_rows),
    "twitter2017": ("twitter2017", read_twitter_rows),
    "wnut17": ("wnut17", read_wnut17),
    "digits": ("", _numbers(datasets.load_digits)),
    "wine": ("", _numbers(datasets.load_wine)),
    "breast_cancer": ("", _numbers(datasets.load_breast_cancer)),
}


# Sources with one tag per word. Their rows have no single class.
TAGGED = ("twitter2015", "twitter2017", "wnut17")


def read_source(source: str, data: Path) -> Texts | Numbers:
    """Read a data set from the data folder.

    Raises:
        UserError: If the source is unknown, or a file is missing or has an unexpected format.
    """
    if source not in SOURCES:
        raise UserError(f"unknown source {source!r}, expected one of {', '.join(SOURCES)}")
    folder, read = SOURCES[source]
    try:
        return read(data / folder)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{data / folder}: cannot read {source} ({type(error).__name__}: {error})") from error
