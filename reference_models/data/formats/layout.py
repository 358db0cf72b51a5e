"""Paths of the parts of a split."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Paths of one split.

    Attributes:
        labels: Files from which samples and labels are read.
        images: Folder of the images.
        crops: Folder of the object crops.
        dictionaries: Possible paths of the crop dictionary. The first existing file is read; a new one is written to
            the first path.
        key_type: Type of the dictionary keys: `str` for image names, `int` for positions of samples in the split.
    """

    labels: tuple[Path, ...]
    images: Path
    crops: Path
    dictionaries: tuple[Path, ...] = ()
    key_type: type[str] | type[int] = int

    def dictionary(self) -> Path | None:
        """Return the path of the existing crop dictionary; None if there is none."""
        return next((path for path in self.dictionaries if path.is_file()), None)
