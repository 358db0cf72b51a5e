"""Where the parts of a split are."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The places of one split.

    Attributes:
        labels: the files that samples and labels are read from.
        images: folder of the images.
        crops: folder of the object crops.
        dictionaries: where the crop dictionary may lie; the first that exists counts, a new one becomes the first.
        key_type: of the dictionary's keys: `str` for image names, `int` for the places of samples in the split.
    """

    labels: tuple[Path, ...]
    images: Path
    crops: Path
    dictionaries: tuple[Path, ...] = ()
    key_type: type[str] | type[int] = int

    def dictionary(self) -> Path | None:
        """The crop dictionary that exists; None if there is none."""
        return next((path for path in self.dictionaries if path.is_file()), None)
