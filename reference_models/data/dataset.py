"""Loading of one split of a data set as samples."""

from collections.abc import Sequence
from pathlib import Path

from reference_models.data.crop_sources import check_crop_sources
from reference_models.data.formats import SPLITS, get_format, recognise
from reference_models.data.image_texts import add_image_texts, image_texts_path
from reference_models.data.samples import Sample, Split, spooled
from reference_models.names import unknown


def load_dataset(
    root: Path | str,
    split: Split = "train",
    *,
    format: str | None = None,
    pairs: bool | None = None,
    visual: bool = True,
    max_crops: int = 3,
) -> Sequence[Sample]:
    """Read one split of a data set. The existence of images and crops is not checked.

    Args:
        root: Folder of the data set.
        split: "train", "valid" or "test".
        format: Name of the data format. None detects it from the files.
        pairs: Whether samples are relations, for formats that support both tasks. None uses the task that the files
            have labels for.
        visual: If False, only the text is read.
        max_crops: Maximum number of crops per sample.

    Returns:
        The samples, stored in a temporary file that is deleted with the object.

    Raises:
        UserError: If the split or format is unknown, or a file is missing or invalid.

    Example:
        >>> from reference_models import load_dataset
        >>> load_dataset("data/twitter2017", "test")[0].words  # doctest: +SKIP
        ('RT', '@Ann', ...)
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    root = Path(root)
    kind = recognise(root) if format is None else get_format(format)
    samples = kind.read(root, split, pairs=pairs, visual=visual, max_crops=max_crops)
    samples = check_crop_sources(samples, root, split, kind.layout(root, split).crops)
    return spooled(add_image_texts(samples, image_texts_path(root, split), kind.layout(root, split).images))
