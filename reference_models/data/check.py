"""Looks over a data set before training: what is in it, and what would stop a run."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import median

from reference_models.data.check_report import Report, SplitReport
from reference_models.data.images import Policy, check_images
from reference_models.data.readers import READERS
from reference_models.data.samples import Sample, Split, fingerprint, read_crop_names, spooled
from reference_models.errors import UserError
from reference_models.grounding.layout import Format, layout

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
ALL = 1_000_000  # crops of a sample, more than any dictionary lists


def check_data(
    format: Format | None,
    root: Path,
    *,
    visual: bool = True,
    max_crops: int = 3,
    bad_images: Policy = "error",
    progress: bool = True,
) -> Report:
    """Read all of a data set and report what is there, whatever is wrong with it.

    Args:
        format: layout of the files; None recognises it by the files below `root`.
        root: folder of the data set, as the readers take it.
        visual: whether pictures and crops are looked at; each of them is decoded once.
        max_crops: crops of a sample that training would use.
        bad_images: what training would do about a picture that is missing or broken; "error" makes one fatal.
        progress: show progress bars.

    Raises:
        UserError: no format is given and the files are of none, or of both.
    """
    format = format or recognise(root)
    splits, samples = [], {}
    for split in SPLITS:
        report, samples[split] = _check_split(format, root, split, visual, max_crops, bad_images, progress)
        splits.append(report)
    labels = [layout(format, root, split).labels for split in SPLITS]
    return Report(
        format=format,
        root=str(root),
        fingerprint=fingerprint(labels) if all(path.is_file() for path in labels) else None,
        splits=tuple(splits),
        duplicate_sentences=_shared({split: _sentence_keys(rows) for split, rows in samples.items()}),
        duplicate_images=_shared({split: _image_keys(rows) for split, rows in samples.items()}),
        # Files of a split that could not be read would all seem unused.
        unused=_unused(format, root, samples) if visual and all(samples.values()) else None,
    )


def recognise(root: Path) -> Format:
    """The format of the files below a folder.

    Raises:
        UserError: they are of no format, or of both.
    """
    found: list[Format] = [
        name for name in READERS if any(layout(name, root, split).labels.is_file() for split in SPLITS)
    ]
    if len(found) != 1:
        raise UserError(
            f"{root}: expected the files of one data set, train.txt, valid.txt or test.txt (twitter) or "
            f"txt/ours_train.txt, ours_val.txt or ours_test.txt (mnre); got {' and '.join(found) or 'neither'}"
        )
    return found[0]


def orphan_tags(samples: Iterable[Sample]) -> int:
    """How many I- tags follow neither B- nor I- of their own type."""
    return sum(
        tag.startswith("I-") and before[2:] != tag[2:]
        for sample in samples
        for before, tag in zip(("O", *(sample.tags or ())), sample.tags or (), strict=False)
    )


def _check_split(
    format: Format, root: Path, split: Split, visual: bool, max_crops: int, policy: Policy, progress: bool
) -> tuple[SplitReport, Sequence[Sample]]:
    place, (read, _) = layout(format, root, split), READERS[format]
    try:
        samples = spooled(read(root, split, visual=False))
    except UserError as error:
        return SplitReport(split=split, fatal=(str(error),)), []
    lengths = [len(sample.words) for sample in samples]
    report = SplitReport(
        split=split,
        samples=len(samples),
        labels=_labels(samples),
        words=(min(lengths), median(lengths), max(lengths)),
        orphan_tags=orphan_tags(samples),
        fingerprint=fingerprint([place.labels]),
    )
    if not visual:
        return report, samples
    listed = place.dictionary() is not None
    try:
        names = read_crop_names(place.dictionaries, place.key_type, ALL) if listed else {}
        samples = spooled(read(root, split, max_crops=ALL))
    except UserError as error:
        return replace(report, fatal=(str(error),)), samples

    used = spooled(replace(sample, crops=sample.crops[:max_crops]) for sample in samples)
    _, bad = check_images(used, "blank", progress=progress)
    reasons = {entry.file: entry.reason for entry in bad.found}
    missing = tuple(file for file in reasons if not Path(file).exists())
    # Splits that are scored are whole under "drop" too.
    all_dropped = split == "train" and len({entry.sample for entry in bad.found}) == len(samples)
    stops = {"error": bool(reasons), "blank": False, "drop": all_dropped}[policy]
    first = next(iter(bad.found), None)
    rows = {sample.image.name for sample in samples if sample.image} if format == "twitter" else range(len(samples))
    return replace(
        report,
        images=len({sample.image for sample in samples}),
        crops=dict(sorted(Counter(len(sample.crops) for sample in samples).items())) if listed else None,
        keys_without_row=sum(key not in rows for key in names) if listed else None,
        missing=missing,
        broken=tuple(f"{file}: {reason}" for file, reason in reasons.items() if file not in missing),
        fatal=(
            f"{split}: {len(reasons)} of {bad.checked} pictures and crops cannot be used, the first is {first.file} of "
            f"{first.sample}: {first.reason} (data.bad_images is {policy!r})",
        )
        if first and stops
        else (),
    ), samples


def _labels(samples: Iterable[Sample]) -> dict[str, int]:
    """Relations, or types of entities (each counted at its B- tag), the most frequent first."""
    labels = Counter(tag[2:] for sample in samples for tag in sample.tags or () if tag.startswith("B-"))
    labels.update(sample.relation for sample in samples if sample.relation is not None)
    return dict(labels.most_common())


def _shared(keys: dict[Split, set[Hashable]]) -> dict[str, int]:
    """How many keys two splits have in common."""
    return {f"{first}/{second}": len(keys[first] & keys[second]) for first, second in combinations(keys, 2)}


def _sentence_keys(samples: Iterable[Sample]) -> set[Hashable]:
    """Each sentence by half a SHA-256, which takes less memory than its words."""
    return {hashlib.sha256(repr(sample.words).encode()).digest()[:16] for sample in samples}


def _image_keys(samples: Iterable[Sample]) -> set[Hashable]:
    """Each picture by its bytes, so that copies under other names are found; by its name where it is missing."""
    keys: set[Hashable] = set()
    for path in dict.fromkeys(sample.image for sample in samples if sample.image):
        if path.is_file():
            with path.open("rb") as file:
                keys.add(hashlib.file_digest(file, "sha256").digest())
        else:
            keys.add(path.name)
    return keys


def _unused(format: Format, root: Path, samples: dict[Split, Sequence[Sample]]) -> tuple[str, ...]:
    """Files in the folders of pictures and crops that no sample lists."""
    used = {path for rows in samples.values() for sample in rows for path in (sample.image, *sample.crops)}
    places = [layout(format, root, split) for split in samples]
    folders = dict.fromkeys(folder for place in places for folder in (place.images, place.crops))
    files = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    return tuple(str(path) for path in files if path not in used)
