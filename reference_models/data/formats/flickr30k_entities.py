"""Flickr30k Entities in its original layout: five sentences per photo with marked phrases, and annotated boxes."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

from reference_models.data.bio import Entity, tags_of_spans
from reference_models.data.formats.base import DataFormat, register_format
from reference_models.data.formats.layout import Layout
from reference_models.data.samples import Region, Sample, Split, file_below, read_lines
from reference_models.errors import UserError

SENTENCES, ANNOTATIONS = "Sentences", "Annotations"
IMAGES = ("images", "flickr30k-images", "flickr30k_images")
VALID_NAMES = ("valid", "val")
NOT_VISUAL = "notvisual"  # type of phrases that name nothing in the image
PHRASE = re.compile(r"\[/EN#(?P<chain>\d+)(?P<types>(?:/[a-z]+)+) (?P<words>[^\[\]]+)\]")
Boxes = dict[str, list[tuple[float, float, float, float]]]


@register_format("flickr30k_entities")
class Flickr30kEntities(DataFormat):
    """Phrases become entities and their boxes become regions, from which `i2srm data crops` cuts crops.

    `root` contains `Sentences/ID.txt`, `Annotations/ID.xml`, `images/ID.jpg` (also `flickr30k-images` or
    `flickr30k_images`) and the splits `{train,valid,test}.txt` (also `val.txt`) with one photo ID per line. The type of
    an entity is the first type of its phrase. `notvisual` phrases are not entities. Images may have any size: boxes are
    stored as fractions of the image size given in the XML file.
    """

    task = "ner"

    def layout(self, root: Path, split: Split) -> Layout:
        """See `DataFormat`; the first label file is the list of photos of the split."""
        names = VALID_NAMES if split == "valid" else (split,)
        lists = [root / f"{name}.txt" for name in names]
        photos = next((path for path in lists if path.is_file()), lists[0])
        folders = [root / name for name in IMAGES]
        labels = [photos]
        with suppress(UserError):  # `read` reports errors in the list
            ids = list(_photos(photos, root))
            labels += [root / SENTENCES / f"{photo}.txt" for photo in ids]
            labels += [root / ANNOTATIONS / f"{photo}.xml" for photo in ids]
        return Layout(
            labels=tuple(labels),
            images=next((folder for folder in folders if folder.is_dir()), folders[0]),
            crops=root / "crops" / split,
            dictionaries=(root / f"crops_{split}_dict.pth",),
        )

    def recognises(self, root: Path) -> bool:
        """See `DataFormat`: whether the folder of sentences exists."""
        return (root / SENTENCES).is_dir()

    def read(
        self, root: Path, split: Split, *, pairs: bool | None = None, visual: bool = True, max_crops: int = 3
    ) -> Iterator[Sample]:
        """See `DataFormat`."""
        place = self.layout(root, split)
        crop_names: dict[int, tuple[str, ...]] = self.crop_names(root, split, max_crops) if visual else {}
        number = 0
        for photo in _photos(place.labels[0], root):
            path = root / SENTENCES / f"{photo}.txt"
            boxes = read_boxes(root / ANNOTATIONS / f"{photo}.xml") if visual else {}
            for line_number, line in enumerate(read_lines(path), start=1):
                if not line.strip():
                    continue
                where = f"{path}:{line_number}"
                words, entities, chains = read_sentence(line, where)
                names = crop_names.get(number, ())
                yield Sample(
                    id=f"{path.name}:{line_number}",
                    words=words,
                    image=place.images / f"{photo}.jpg" if visual else None,
                    crops=tuple(file_below(place.crops, crop, f"{where}, its crops") for crop in names),
                    tags=tags_of_spans(len(words), entities, where),
                    regions=tuple(
                        Region(*box, " ".join(words[start:end]))
                        for (start, end, _), chain in zip(entities, chains, strict=True)
                        for box in boxes.get(chain, ())
                    ),
                )
                number += 1


def read_sentence(line: str, where: str) -> tuple[tuple[str, ...], list[Entity], list[str]]:
    """Parse a sentence with marked phrases.

    Args:
        line: Line such as "[/EN#18/people A child] is climbing ."
        where: File and line, for the message.

    Returns:
        The words, the entities (start, end, type), and for each entity the id of the coreference chain of its boxes.

    Raises:
        UserError: If a phrase mark is not closed or malformed.
    """
    words: list[str] = []
    entities: list[Entity] = []
    chains: list[str] = []
    end = 0
    for match in PHRASE.finditer(line):
        words += _plain(line[end : match.start()], where)
        inside = match["words"].split()
        kind = match["types"].split("/")[1]
        if kind != NOT_VISUAL and inside:
            entities.append((len(words), len(words) + len(inside), kind))
            chains.append(match["chain"])
        words += inside
        end = match.end()
    words += _plain(line[end:], where)
    return tuple(words), entities, chains


def read_boxes(path: Path) -> Boxes:
    """Read the boxes of each coreference chain, as fractions of the width and height given in the file.

    Raises:
        UserError: If the file cannot be read, has no image size, or contains an invalid number.
    """
    try:
        content = path.read_bytes()
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise UserError(f"{path}: expected annotations, got an XML file that declares XML entities (not read)")
        tree = ElementTree.fromstring(content)
        width, height = (float(tree.findtext(f"size/{side}") or 0) for side in ("width", "height"))
        if not (width > 0 and height > 0):
            raise UserError(
                f"{path}: expected a positive width and height of the photo under 'size', got {width:g} x {height:g}"
            )
        boxes: Boxes = {}
        for item in tree.iter("object"):
            bounds = [item.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
            if None in bounds:
                continue  # no box: the phrase names something outside the image, or the whole scene
            left, top, right, bottom = (float(bound or 0) for bound in bounds)
            box = (left / width, top / height, right / width, bottom / height)
            for name in item.iter("name"):
                boxes.setdefault(name.text or "", []).append(box)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise error if isinstance(error, UserError) else UserError(f"{path}: invalid annotations ({error})") from error
    return boxes


def _photos(path: Path, root: Path) -> Iterator[str]:
    for number, line in enumerate(read_lines(path), start=1):
        if name := line.strip():
            file_below(root / SENTENCES, name, f"{path}:{number}")
            yield name


def _plain(text: str, where: str) -> list[str]:
    if "[/EN#" in text:
        raise UserError(f"{where}: expected a phrase as in '[/EN#18/people A child]', got {text.strip()[:80]!r}")
    return text.split()
