"""What a run of `i2srm data crops` made of one split, in a few lines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reference_models.data.samples import Split
from reference_models.grounding.manifest import Row


@dataclass(frozen=True)
class Summary:
    """Counts of one split, and where the results are.

    Attributes:
        split: which.
        detector: its name.
        images: how many were looked at (MNRE: one for each row).
        crops: how many were cut out.
        empty: images in which nothing was found.
        bad: images that cannot be read, as "FILE of SAMPLES: REASON".
        dictionary: the crop dictionary.
        manifest: one line for each crop.
        folder: the crops.
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
    def of(cls, split: Split, rows: Sequence[Row], dictionary: Path, manifest: Path, folder: Path) -> Summary:
        """Count the rows of a manifest, of which there is at least one."""
        bad: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            if row.problem is not None:
                bad.setdefault((row.image, row.problem), []).append(row.sample)
        root = manifest.parent
        return cls(
            split=split,
            detector=rows[0].detector,
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
        """A few lines to print, naming the first `limit` bad images."""
        lines = [f"{self.split}: {self.crops} crops of {self.images} images by {self.detector}"]
        if self.empty:
            lines.append(f"  nothing was found in {self.empty}")
        if self.bad:
            lines.append(f"  {len(self.bad)} cannot be read and were left out:")
            lines += [f"    {bad}" for bad in self.bad[:limit]]
        if len(self.bad) > limit:
            lines.append(f"    and {len(self.bad) - limit} more; all are in the manifest")
        lines.append(f"  crops in {self.folder}, dictionary {self.dictionary}, manifest {self.manifest}")
        return "\n".join(lines)
