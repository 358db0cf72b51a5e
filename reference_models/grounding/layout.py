"""Where the field's code bases, and so our readers, look for the parts of a data set."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reference_models.data.mnre import DICTIONARY_NAMES, TEXT_NAMES, mnre_file
from reference_models.data.samples import Split
from reference_models.data.twitter import twitter_file

Format = Literal["twitter", "mnre"]


def layout(format: Format, root: Path, split: Split) -> "Layout":
    """The files and folders of a split below, and for Twitter beside, the folder `root`."""
    part = TEXT_NAMES[split]
    if format == "mnre":
        dictionary = root / "txt" / f"mre_{DICTIONARY_NAMES[split]}_dict.pth"
        images, crops = root / "img_org" / part, root / "img_vg" / part / "crops"
        return Layout(mnre_file(root, split), images, crops, (dictionary,), int)
    folder = Path(os.path.abspath(root))  # so that "." has a name too
    names = dict.fromkeys((part, split))
    dictionaries = tuple(root / f"{folder.name}_{name}_dict.pth" for name in names)
    crops = folder.with_name(f"{folder.name}_aux_images") / part / "crops"
    return Layout(twitter_file(root, split), folder.with_name(f"{folder.name}_images"), crops, dictionaries, str)


@dataclass(frozen=True)
class Layout:
    """The places of one split.

    Attributes:
        labels: the label file.
        images: folder of the pictures.
        crops: folder of the object crops.
        dictionaries: where the crop dictionary may lie; the first that exists counts, a new one becomes the first.
        key_type: of the dictionary's keys: image names, or the rows' places in the label file.
    """

    labels: Path
    images: Path
    crops: Path
    dictionaries: tuple[Path, ...]
    key_type: type[str] | type[int]

    def dictionary(self) -> Path | None:
        """The crop dictionary that exists; None if there is none."""
        return next((path for path in self.dictionaries if path.is_file()), None)
