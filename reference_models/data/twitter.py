"""The Twitter-2015 and Twitter-2017 files: sentences with BIO tags, each with a picture and its object crops."""

import os
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from reference_models.data.samples import TAGS, Sample, Split, file_below, read_crop_names, read_lines
from reference_models.errors import UserError


def twitter_file(root: Path, split: Split) -> Path:
    """The label file of a split."""
    return root / f"{split}.txt"


def read_twitter(root: Path, split: Split, *, visual: bool = True, max_crops: int = 3) -> Iterator[Sample]:
    """Read one split, sample by sample, of a data set in the layout that the field's code bases share.

    With `root` = `.../twitter2017`: sentences are in `twitter2017/{train,valid,test}.txt`, pictures in
    `twitter2017_images/`, crops in `twitter2017_aux_images/{train,val,test}/crops/`, and which crops belong to which
    picture in `twitter2017/twitter2017_{train,val,test}_dict.pth` (keys without a sentence are normal). The type OTHER
    is read as MISC; an I- tag that follows no B- stays as it is. Whether pictures and crops exist is not looked at.

    Args:
        root: the folder of the text files.
        split: which part.
        visual: False reads the text alone and touches neither pictures nor dictionary.
        max_crops: how many crops a sample keeps at most, the first ones of the dictionary.

    Raises:
        UserError: naming file, line, what was expected and what came.
    """
    path = twitter_file(root, split)
    folder = Path(os.path.abspath(root))  # so that "." has a name too
    images = folder.with_name(f"{folder.name}_images")
    crops = folder.with_name(f"{folder.name}_aux_images") / ("val" if split == "valid" else split) / "crops"
    crop_names: dict[str, tuple[str, ...]] = {}
    if visual and max_crops:
        labels = ("val", "valid") if split == "valid" else (split,)
        crop_names = read_crop_names([root / f"{folder.name}_{label}_dict.pth" for label in labels], str, max_crops)
    for (number, name), rows in groupby(_rows(path), key=itemgetter(0)):
        columns = [row for _, row in rows if row]
        if not columns:
            raise UserError(f"{path}:{number}: expected words below 'IMGID:{name}', this sample has none")
        where = f"{path}:{number}"
        words, tags = zip(*columns, strict=True)
        yield Sample(
            id=f"{path.name}:{number}",
            words=words,
            image=file_below(images, f"{name}.jpg", where) if visual else None,
            crops=tuple(file_below(crops, crop, f"{where}, its crops") for crop in crop_names.get(f"{name}.jpg", ())),
            tags=tags,
        )


def _rows(path: Path) -> Iterator[tuple[tuple[int, str], tuple[str, str] | None]]:
    """Each word with its tag, behind the number of its sentence's IMGID line and the name of the image there.

    The IMGID line itself comes first, with None for a word.
    """
    sentence, inside = (0, ""), False
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path}:{number}"
        if line.startswith("IMGID:"):
            name = line.removeprefix("IMGID:").strip()
            if not name or "\t" in name:
                raise UserError(f"{where}: expected 'IMGID:' and the name of one image, got {line!r}")
            sentence, inside = (number, name), True
            yield sentence, None
        elif not line.strip(" "):
            inside = False
        elif not inside:
            raise UserError(f"{where}: expected an 'IMGID:' line before the words of a sample, got {line!r}")
        else:
            columns = line.split("\t")
            if len(columns) != 2 or not columns[0]:
                raise UserError(f"{where}: expected a word, a tab and a tag, got {line!r}")
            word, tag = columns[0], columns[1].replace("OTHER", "MISC")
            if tag not in TAGS:
                raise UserError(f"{where}: unknown tag {columns[1]!r}, expected one of {', '.join(TAGS)}")
            yield sentence, (word, tag)
