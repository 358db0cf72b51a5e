"""Check of a data set before training: counts, missing or broken files, and problems that would stop training."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import median

from reference_models.config import Policy
from reference_models.data.check_report import Report, SplitReport
from reference_models.data.crop_sources import check_crop_sources
from reference_models.data.formats import SPLITS, DataFormat, get_format, recognise
from reference_models.data.images import SUFFIXES, check_images
from reference_models.data.samples import Sample, Split, fingerprint, spooled
from reference_models.errors import UserError

ALL = 1_000_000  # crops per sample; larger than any real crop list


def check_data(
    name: str | None,
    root: Path,
    *,
    visual: bool = True,
    max_crops: int = 3,
    bad_images: Policy = "error",
    progress: bool = True,
) -> Report:
    """Read a whole data set and report its contents and problems. Problems in the data do not raise an error.

    Args:
        name: Name of the data format. None detects it from the files below `root`.
        root: Folder of the data set.
        visual: Whether to check images and crops. Each file is decoded once.
        max_crops: Maximum number of crops per sample that training would use.
        bad_images: How training would treat a missing or broken image. With "error", a single one is fatal.
        progress: Whether to show progress bars.

    Returns:
        The contents and problems of all splits, see `Report`.

    Raises:
        UserError: If the format is unknown, or `name` is None and the files match no format or several.
    """
    format = recognise(root) if name is None else get_format(name)
    splits, samples = [], {}
    for split in SPLITS:
        report, samples[split] = _check_split(format, root, split, visual, max_crops, bad_images, progress)
        splits.append(report)
    if not any(report.labels or report.fatal for report in splits):
        problem = f"{root}: expected samples with entities or relations, but no sample has one"
        splits = [replace(splits[0], fatal=(problem,)), *splits[1:]]
    labels = [path for split in SPLITS for path in format.layout(root, split).labels]
    return Report(
        format=format.name,
        root=str(root),
        fingerprint=fingerprint(labels) if all(path.is_file() for path in labels) else None,
        splits=tuple(splits),
        duplicate_sentences=_shared({split: _sentence_keys(rows) for split, rows in samples.items()}),
        duplicate_images=_shared({split: _image_keys(rows) for split, rows in samples.items()}),
        # If a split cannot be read, all its files would count as unused.
        unused=_unused(format, root, samples) if visual and format.has_images and all(samples.values()) else None,
    )


def orphan_tags(samples: Iterable[Sample]) -> int:
    """Count the I- tags that do not follow a B- or I- tag of the same type."""
    return sum(
        tag.startswith("I-") and before[2:] != tag[2:]
        for sample in samples
        for before, tag in zip(("O", *(sample.tags or ())), sample.tags or (), strict=False)
    )


def _check_split(
    format: DataFormat, root: Path, split: Split, visual: bool, max_crops: int, policy: Policy, progress: bool
) -> tuple[SplitReport, Sequence[Sample]]:
    place = format.layout(root, split)
    try:
        samples = spooled(format.read(root, split, visual=False))
    except UserError as error:
        return SplitReport(split=split, fatal=(str(error),)), []
    lengths = [len(sample.words) for sample in samples]
    report = SplitReport(
        split=split,
        samples=len(samples),
        labels=_labels(samples),
        words=(min(lengths), median(lengths), max(lengths)),
        orphan_tags=orphan_tags(samples),
        fingerprint=fingerprint(place.labels),
    )
    if not (visual and format.has_images):
        return report, samples
    dictionary = place.dictionary() is not None
    try:
        names = format.crop_names(root, split, ALL) if dictionary else {}
        samples = spooled(check_crop_sources(format.read(root, split, max_crops=ALL), root, split, place.crops))
    except UserError as error:
        return replace(report, fatal=(str(error),)), samples

    used = spooled(replace(sample, crops=sample.crops[:max_crops]) for sample in samples)
    _, bad = check_images(used, "blank", progress=progress)
    reasons = {entry.file: entry.reason for entry in bad.found}
    missing = tuple(file for file in reasons if not Path(file).exists())
    # "drop" removes samples from the training split only.
    all_dropped = split == "train" and len({entry.sample for entry in bad.found}) == len(samples)
    stops = {"error": bool(reasons), "blank": False, "drop": all_dropped}[policy]
    first = next(iter(bad.found), None)
    listed = dictionary or any(sample.crops for sample in samples)
    by_name = place.key_type is str
    rows = {sample.image.name for sample in samples if sample.image} if by_name else range(len(samples))
    return replace(
        report,
        images=len({sample.image for sample in samples if sample.image}),
        crops=dict(sorted(Counter(len(sample.crops) for sample in samples).items())) if listed else None,
        keys_without_row=sum(key not in rows for key in names) if dictionary else None,
        missing=missing,
        broken=tuple(f"{file}: {reason}" for file, reason in reasons.items() if file not in missing),
        fatal=(
            f"{split}: {len(reasons)} of {bad.checked} images and crops cannot be used; the first is {first.file} of "
            f"sample {first.sample}: {first.reason} (data.bad_images is {policy!r})",
        )
        if first and stops
        else (),
    ), samples


def _labels(samples: Iterable[Sample]) -> dict[str, int]:
    """Count relations or entity types (by their B- tags), most frequent first."""
    labels = Counter(tag[2:] for sample in samples for tag in sample.tags or () if tag.startswith("B-"))
    labels.update(sample.relation for sample in samples if sample.relation is not None)
    return dict(labels.most_common())


def _shared(keys: dict[Split, set[Hashable]]) -> dict[str, int]:
    """Count the keys that each pair of splits has in common."""
    return {f"{first}/{second}": len(keys[first] & keys[second]) for first, second in combinations(keys, 2)}


def _sentence_keys(samples: Iterable[Sample]) -> set[Hashable]:
    """Return half a SHA-256 for each sentence; hashes take less memory than words."""
    return {hashlib.sha256(repr(sample.words).encode()).digest()[:16] for sample in samples}


def _image_keys(samples: Iterable[Sample]) -> set[Hashable]:
    """Return a hash of the content of each image, to find copies with other names; the name if the file is missing."""
    keys: set[Hashable] = set()
    for path in dict.fromkeys(sample.image for sample in samples if sample.image):
        if path.is_file():
            with path.open("rb") as file:
                keys.add(hashlib.file_digest(file, "sha256").digest())
        else:
            keys.add(path.name)
    return keys


def _unused(format: DataFormat, root: Path, samples: dict[Split, Sequence[Sample]]) -> tuple[str, ...]:
    """Return the image files in the image and crop folders that no sample lists."""
    used = {path for rows in samples.values() for sample in rows for path in (sample.image, *sample.crops)}
    places = [format.layout(root, split) for split in samples]
    folders = dict.fromkeys(folder for place in places for folder in (place.images, place.crops))
    files = dict.fromkeys(path for folder in folders for path in sorted(folder.rglob("*")))
    return tuple(str(path) for path in files if path.suffix.lower() in SUFFIXES and path not in used)
