"""What `i2srm data check` found, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reference_models.data.samples import Split

SHOWN = 5  # unused and broken files that the table names


@dataclass(frozen=True)
class SplitReport:
    """One split; what could not be found out has its default.

    Attributes:
        split: which.
        samples: how many.
        labels: relations, or types of entities, with their counts, the most frequent first.
        words: least, median and most words of a sentence.
        orphan_tags: I- tags that follow no tag of their type.
        fingerprint: of the label file.
        images: different images that the samples list.
        crops: how many samples list 0, 1, 2, ... crops; None without a crop dictionary.
        keys_without_row: keys of the crop dictionary that no sample has.
        missing: images and crops that training would use and that do not exist.
        broken: those that cannot be read, each with the reason.
        fatal: what would stop training.
    """

    split: Split
    samples: int | None = None
    labels: dict[str, int] | None = None
    words: tuple[float, float, float] | None = None
    orphan_tags: int | None = None
    fingerprint: str | None = None
    images: int | None = None
    crops: dict[int, int] | None = None
    keys_without_row: int | None = None
    missing: tuple[str, ...] | None = None
    broken: tuple[str, ...] | None = None
    fatal: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """A whole data set.

    Attributes:
        format: layout of its files.
        root: its folder.
        fingerprint: of all label files together, as a run's `metrics.json` has it; None if one is missing.
        splits: in the order train, valid, test.
        duplicate_sentences: for two splits, as in "train/test", how many different sentences are in both.
        duplicate_images: the same for images.
        unused: files in the folders of images and crops that no sample lists; None if that cannot be said.
    """

    format: str
    root: str
    fingerprint: str | None
    splits: tuple[SplitReport, ...]
    duplicate_sentences: dict[str, int]
    duplicate_images: dict[str, int]
    unused: tuple[str, ...] | None

    @property
    def fatal(self) -> tuple[str, ...]:
        """What would stop training, of all splits, each problem once."""
        return tuple(dict.fromkeys(problem for split in self.splits for problem in split.fatal))

    def to_json(self) -> dict[str, Any]:
        """Everything as plain types, ready for `json.dump`."""
        return {**asdict(self), "fatal": list(self.fatal)}

    def table(self) -> str:
        """All counts with a column for each split, then what concerns the whole set, then the problems."""
        labels = dict.fromkeys(label for split in self.splits for label in split.labels or ())
        crops = sorted({count for split in self.splits for count in split.crops or ()})
        columns = [_column(split, list(labels), crops) for split in self.splits]
        rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
        wide = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [f"{self.root} ({self.format}), labels fingerprint {_text(self.fingerprint)}", ""]
        lines += [
            "  ".join([row[0].ljust(wide[0]), *(cell.rjust(w) for cell, w in zip(row[1:], wide[1:], strict=True))])
            for row in rows
        ]
        for what, shared in (("sentences", self.duplicate_sentences), ("images", self.duplicate_images)):
            lines.append(f"same {what} in {', '.join(f'{pair}: {count:,}' for pair, count in shared.items())}")
        lines.append(f"unused files: {_count(self.unused)}")
        broken = [file for split in self.splits for file in split.broken or ()]
        lines += [*_listed("unused", self.unused or (), SHOWN), *_listed("broken", broken, SHOWN)]
        lines += _listed("would stop training", self.fatal, None)
        return "\n".join(line.rstrip() for line in lines)


def _column(split: SplitReport, labels: Sequence[str], crops: Sequence[int]) -> dict[str, str]:
    words = "-" if split.words is None else " / ".join(f"{number:g}" for number in split.words)
    return {
        "": split.split,
        "samples": _text(split.samples),
        "words, min / median / max": words,
        "orphan I- tags": _text(split.orphan_tags),
        **{label: _text(None if split.labels is None else split.labels.get(label, 0)) for label in labels},
        "images": _text(split.images),
        **{f"samples with {n} crops": _text(None if split.crops is None else split.crops.get(n, 0)) for n in crops},
        "dictionary keys without a row": _text(split.keys_without_row),
        "images and crops missing": _count(split.missing),
        "images and crops broken": _count(split.broken),
        "labels fingerprint": _text(split.fingerprint),
    }


def _listed(title: str, entries: Sequence[str], limit: int | None) -> list[str]:
    shown = entries[:limit]
    more = [f"  and {len(entries) - len(shown):,} more"] if len(shown) < len(entries) else []
    return [f"{title}:", *(f"  {entry}" for entry in shown), *more] if entries else []


def _text(value: int | str | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else value


def _count(files: Sequence[str] | None) -> str:
    return _text(None if files is None else len(files))
