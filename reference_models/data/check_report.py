"""Report of `i2srm data check`, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reference_models.data.samples import Split

SHOWN = 5  # maximum number of unused and of broken files in the table


@dataclass(frozen=True)
class SplitReport:
    """Contents and problems of one split. A value that could not be determined keeps its default.

    Attributes:
        split: Name of the split.
        samples: Number of samples.
        labels: Relations or entity types with their counts, most frequent first.
        words: Minimum, median and maximum number of words in a sentence.
        orphan_tags: Number of I- tags that do not follow a B- or I- tag of the same type.
        fingerprint: Fingerprint of the label file.
        images: Number of distinct images that the samples list.
        crops: Number of samples with 0, 1, 2, ... crops. None without a crop dictionary.
        keys_without_row: Number of keys of the crop dictionary that match no sample.
        missing: Images and crops that training would use and that do not exist.
        broken: Images and crops that cannot be read, each with the reason.
        fatal: Problems that would stop training.
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
    """Contents and problems of a whole data set.

    Attributes:
        format: Name of the data format.
        root: Folder of the data set.
        fingerprint: Fingerprint of all label files together, as in `metrics.json` of a run. None if a file is missing.
        splits: Reports in the order train, valid, test.
        duplicate_sentences: For each pair of splits, such as "train/test", the number of distinct sentences in both.
        duplicate_images: The same for images.
        unused: Image files in the image and crop folders that no sample lists. None if images were not checked or a
            split could not be read.
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
        """Problems of all splits that would stop training, without repetitions."""
        return tuple(dict.fromkeys(problem for split in self.splits for problem in split.fatal))

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain types for `json.dump`."""
        return {**asdict(self), "fatal": list(self.fatal)}

    def table(self) -> str:
        """Return the counts with one column per split, then the counts of the whole data set, then the problems."""
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
