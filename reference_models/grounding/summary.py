"""Summary of `i2srm data crops` for one split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reference_models.data.samples import Split
from reference_models.grounding.manifest import Row


@dataclass(frozen=True)
class Summary:
    """Counts of one split, and the paths of the results.

    Attributes:
        split: Name of the split.
        detector: Name of the detector.
        images: Number of images processed (MNRE: one per row).
        crops: Number of crops.
        empty: Number of images in which nothing was found.
        bad: Unreadable images, as "FILE of SAMPLES: REASON".
        dictionary: Path of the crop dictionary.
        manifest: Path of the manifest, with one line per crop.
        folder: Folder of the crops.
    """

    split: Split
    detector: str
    images: int
    crops: int
    empty: int
    bad: tuple[str, ...]
    dictionary: Path
    manifest: Path
    folder: Path

    @classmethod
    def of(
        cls, split: Split, detector: str, rows: Sequence[Row], dictionary: Path, manifest: Path, folder: Path
    ) -> Summary:
        """Summarise the rows of a manifest; a split without images has none."""
        bad: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            if row.problem is not None:
                bad.setdefault((row.image, row.problem), []).append(row.sample)
        root = manifest.parent
        return cls(
            split=split,
            detector=detector,
            images=len({row.key for row in rows}),
            crops=sum(row.crop is not None for row in rows),
            empty=len({row.key for row in rows if row.crop is None and row.problem is None}),
            bad=tuple(
                f"{os.path.normpath(root / image)} of {', '.join(samples)}: {reason}"
                for (image, reason), samples in bad.items()
            ),
            dictionary=dictionary,
            manifest=manifest,
            folder=folder,
        )

    def text(self, limit: int = 10) -> str:
        """Return a few lines to print, with the first `limit` unreadable images."""
        if not self.images:
            return f"{self.split}: no sample has an image; the dictionary {self.dictionary} is empty"
        lines = [f"{self.split}: {self.crops} crops from {self.images} images by {self.detector}"]
        if self.empty:
            lines.append(f"  nothing was found in {self.empty} images")
        if self.bad:
            lines.append(f"  {len(self.bad)} images cannot be read and were skipped:")
            lines += [f"    {bad}" for bad in self.bad[:limit]]
        if len(self.bad) > limit:
            lines.append(f"    and {len(self.bad) - limit} more; all are in the manifest")
        lines.append(f"  crops in {self.folder}, dictionary {self.dictionary}, manifest {self.manifest}")
        return "\n".join(lines)
