"""A split of a data set as samples."""

from collections.abc import Sequence
from pathlib import Path

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
    """Read a split of a data set; whether its images and crops exist is not looked at.

    Args:
        root: folder of the data set.
        split: "train", "valid" or "test".
        format: name of the data format; None recognises it by the files.
        pairs: whether samples are relations, where a format has both; None for what its files have labels for.
        visual: False reads the text alone.
        max_crops: crops of a sample at most.

    Returns:
        The samples, in a temporary file that goes with the object.

    Raises:
        UserError: an unknown split or format, or a file that is missing or wrong.

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
    return spooled(add_image_texts(samples, image_texts_path(root, split), kind.layout(root, split).images))
