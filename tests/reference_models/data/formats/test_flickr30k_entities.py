"""Flickr30k Entities: phrases as entities, boxes relative to the size in the XML, and errors for invalid files."""

from pathlib import Path

import pytest

from reference_models.data.formats import Flickr30kEntities, recognise
from reference_models.data.formats.flickr30k_entities import read_boxes, read_sentence
from reference_models.data.samples import Region, Sample
from reference_models.errors import UserError

SENTENCES = [
    "[/EN#18/people A little girl] in [/EN#19/clothing/other a dress] "
    "[/EN#0/notvisual that] climbs [/EN#20/scene it] .",
    "She smiles .",
]
ANNOTATIONS = """<annotation><filename>7.jpg</filename><size><width>400</width><height>200</height></size>
<object><name>18</name><name>20</name><bndbox><xmin>40</xmin><ymin>50</ymin><xmax>400</xmax><ymax>100</ymax></bndbox>
</object>
<object><name>18</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>4</xmax><ymax>20</ymax></bndbox></object>
<object><name>19</name><scene>0</scene><nobndbox>1</nobndbox></object></annotation>"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("Sentences", "Annotations", "images"):
        (tmp_path / folder).mkdir()
    (tmp_path / "Sentences" / "7.txt").write_text("\n".join(SENTENCES) + "\n")
    (tmp_path / "Annotations" / "7.xml").write_text(ANNOTATIONS)
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.txt").write_text("7\n")
    return tmp_path


def test_entities_and_regions_are_read(root: Path) -> None:
    image = root / "images" / "7.jpg"
    first, second = Flickr30kEntities().read(root, "train")
    assert first == Sample(
        "7.txt:1",
        ("A", "little", "girl", "in", "a", "dress", "that", "climbs", "it", "."),
        image,
        tags=("B-people", "I-people", "I-people", "O", "B-clothing", "I-clothing", "O", "O", "B-scene", "O"),
        regions=(
            Region(0.1, 0.25, 1.0, 0.5, "A little girl"),
            Region(0.0, 0.0, 0.01, 0.1, "A little girl"),
            Region(0.1, 0.25, 1.0, 0.5, "it"),
        ),
    )
    assert second == Sample("7.txt:2", ("She", "smiles", "."), image, tags=("O", "O", "O"))
    assert recognise(root).name == "flickr30k_entities"


def test_text_only_reading_needs_no_annotations(root: Path) -> None:
    (root / "Annotations" / "7.xml").unlink()
    first, _ = Flickr30kEntities().read(root, "train", visual=False)
    assert (first.image, first.regions) == (None, ())
    with pytest.raises(UserError, match=r"7\.xml: cannot be read"):
        list(Flickr30kEntities().read(root, "train"))


def test_label_files_follow_the_image_list_of_the_split(root: Path) -> None:
    files = (root / "val.txt", root / "Sentences" / "7.txt", root / "Annotations" / "7.xml")
    assert Flickr30kEntities().layout(root, "valid").labels == files
    (root / "val.txt").write_text("../7\n")
    assert Flickr30kEntities().layout(root, "valid").labels == files[:1]
    with pytest.raises(UserError, match=r"val\.txt:1: expected the name of a file below"):
        list(Flickr30kEntities().read(root, "valid"))


def test_common_image_folder_name_is_found(root: Path) -> None:
    (root / "images").rename(root / "flickr30k-images")
    assert Flickr30kEntities().layout(root, "test").images == root / "flickr30k-images"


@pytest.mark.parametrize("line", ["[/EN#18/people A girl", "a [/EN#x/people A girl] b", "[/EN#18 A girl]"])
def test_invalid_phrase_markup_raises(line: str) -> None:
    with pytest.raises(UserError, match=r"here: expected a phrase as in '\[/EN#18/people A child\]', got"):
        read_sentence(line, "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid annotations"),
        ("<annotation>", "invalid annotations"),
        ("<annotation></annotation>", "expected a positive width and height of the photo"),
        (ANNOTATIONS.replace("400</width>", "0</width>"), "expected a positive width and height"),
        (ANNOTATIONS.replace("400</width>", "wide</width>"), "invalid annotations"),
        (ANNOTATIONS.replace("<xmin>40", "<xmin>x"), "invalid annotations"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + ANNOTATIONS, "declares XML entities"),
    ],
)
def test_invalid_annotations_raise(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "7.xml").write_text(text)
    with pytest.raises(UserError, match=rf"7\.xml: .*{message}"):
        read_boxes(tmp_path / "7.xml")
