"""Twitter-2015 and Twitter-2017 files: sentences with BIO tags, each with an image and object crops."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import torch

from reference_models.data.bio import check_tag
from reference_models.data.formats.base import SPLITS, DataFormat, register_format, relative_name
from reference_models.data.formats.layout import Layout
from reference_models.data.samples import Sample, Split, file_below, read_lines
from reference_models.errors import UserError

PREFIX = "IMGID:"


@register_format("twitter")
class Twitter(DataFormat):
    """The usual layout of Twitter-2015 and Twitter-2017 in published code.

    With `root` = `.../twitter2017`: sentences are in `twitter2017/{train,valid,test}.txt`, images in
    `twitter2017_images/` and crops in `twitter2017_aux_images/{train,val,test}/crops/`.
    `twitter2017/twitter2017_{train,val,test}_dict.pth` maps the name of an image to its crops; extra keys are normal.
    The type OTHER is read as MISC. An I- tag without a preceding B- is not changed.
    """

    task = "ner"

    def layout(self, root: Path, split: Split) -> Layout:
        """See `DataFormat`; the folders of images and crops are siblings of `root`."""
        folder = Path(os.path.abspath(root))  # absolute, because "." has no name
        part = "val" if split == "valid" else split
        names = dict.fromkeys((part, split))
        return Layout(
            labels=(root / f"{split}.txt",),
            images=folder.with_name(f"{folder.name}_images"),
            crops=folder.with_name(f"{folder.name}_aux_images") / part / "crops",
            dictionaries=tuple(root / f"{folder.name}_{name}_dict.pth" for name in names),
            key_type=str,
        )

    def recognises(self, root: Path) -> bool:
        """See `DataFormat`: whether a label file starts with the name of an image."""
        files = [path for split in SPLITS for path in self.layout(root, split).labels if path.is_file()]
        return any(_first_line(path).startswith(PREFIX) for path in files)

    def read(
        self, root: Path, split: Split, *, pairs: bool | None = None, visual: bool = True, max_crops: int = 3
    ) -> Iterator[Sample]:
        """See `DataFormat`."""
        place = self.layout(root, split)
        [path] = place.labels
        crop_names: dict[str, tuple[str, ...]] = self.crop_names(root, split, max_crops) if visual else {}
        for (number, name), rows in groupby(_rows(path), key=itemgetter(0)):
            columns = [row for _, row in rows if row]
            where = f"{path}:{number}"
            if not columns:
                raise UserError(
                    f"{where}: expected words below '{PREFIX}{name}', this sample has none; add its words or remove "
                    "the line"
                )
            words, tags = zip(*columns, strict=True)
            names = crop_names.get(f"{name}.jpg", ())
            yield Sample(
                id=f"{path.name}:{number}",
                words=words,
                image=file_below(place.images, f"{name}.jpg", where) if visual else None,
                crops=tuple(file_below(place.crops, crop, f"{where}, its crops") for crop in names),
                tags=tags,
            )

    def write(self, root: Path, samples: Mapping[Split, Sequence[Sample]], labels: Sequence[str] | None = None) -> None:
        """See `DataFormat`."""
        root.mkdir(parents=True, exist_ok=True)
        for split, rows in samples.items():
            place = self.layout(root, split)
            lines: list[str] = []
            dictionary: dict[str, list[str]] = {}
            for sample in rows:
                if sample.image is None or sample.image.suffix != ".jpg":
                    raise UserError(
                        f"{sample.id}: expected a .jpg image, which this data format needs, got {sample.image}"
                    )
                name = relative_name(sample.image, place.images, sample)
                dictionary[name] = [relative_name(crop, place.crops, sample) for crop in sample.crops]
                words = zip(sample.words, sample.tags or ["O"] * len(sample.words), strict=True)
                lines += [f"{PREFIX}{name.removesuffix('.jpg')}", *(f"{word}\t{tag}" for word, tag in words), ""]
            place.labels[0].write_text("\n".join(lines), encoding="utf-8")
            torch.save(dictionary, place.dictionaries[0])


def _first_line(path: Path) -> str:
    try:
        return next((line for line in read_lines(path) if line.strip()), "")
    except UserError:
        return ""


def _rows(path: Path) -> Iterator[tuple[tuple[int, str], tuple[str, str] | None]]:
    """Yield ((line number of the IMGID line, image name), (word, tag)) for each word.

    The IMGID line itself is yielded before its words, with None instead of a word.
    """
    sentence, inside = (0, ""), False
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path}:{number}"
        if line.startswith(PREFIX):
            name = line.removeprefix(PREFIX).strip()
            if not name or "\t" in name:
                raise UserError(f"{where}: expected '{PREFIX}' followed by the name of one image, got {line!r}")
            sentence, inside = (number, name), True
            yield sentence, None
        elif not line.strip(" "):
            inside = False
        elif not inside:
            raise UserError(f"{where}: expected an '{PREFIX}' line before the words of a sample, got {line!r}")
        else:
            columns = line.split("\t")
            if len(columns) != 2 or not columns[0]:
                raise UserError(f"{where}: expected a word, a tab and a tag, got {line!r}")
            word, tag = columns
            other = {"B-OTHER": "B-MISC", "I-OTHER": "I-MISC"}
            yield sentence, (word, other.get(tag, check_tag(tag, where)))
