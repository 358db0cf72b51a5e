"""Check that crops were cut from the image of their sample, by the manifest that `i2srm data crops` writes."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from reference_models.data.samples import Sample, Split
from reference_models.errors import UserError


def manifest_path(root: Path, split: Split) -> Path:
    """Return the path of the manifest of a split, which has one JSON object per crop."""
    return root / f"crops_{split}.jsonl"


def check_crop_sources(samples: Iterable[Sample], root: Path, split: Split, crops: Path) -> Iterator[Sample]:
    """Check that the crops of samples were cut from their images.

    Data formats that identify crops by the position of a sample assign wrong crops if lines are added, removed or
    reordered after the crops were made.

    Args:
        samples: Samples of a split.
        root: Folder of the data set.
        split: Name of the split.
        crops: Folder of the crops.

    Yields:
        The samples, unchanged and in the same order.

    Raises:
        UserError: If a crop of a sample was cut from another image. Crops that the manifest does not list are not
            checked.
    """
    sources = _sources(manifest_path(root, split), root, crops)
    for sample in samples:
        for crop in sample.crops:
            source = sources.get(os.path.normpath(crop))
            if source is not None and (sample.image is None or os.path.normpath(sample.image) != source):
                raise UserError(
                    f"{sample.id}: its crop {crop} was cut from {source}, but its image is {sample.image}; the label "
                    "file or data.task has changed since the crops were made: repeat i2srm data crops with "
                    "--grounding.overwrite true"
                )
        yield sample


def _sources(path: Path, root: Path, crops: Path) -> dict[str, str]:
    """Return the image of each crop; empty without a readable manifest."""
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        cut = [(row["crop"], row["image"]) for row in rows if row["crop"]]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {os.path.normpath(crops / crop): os.path.normpath(root / image) for crop, image in cut}
