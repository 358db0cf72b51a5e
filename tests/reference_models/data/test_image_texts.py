"""Image texts: round trip through a file, errors for invalid lines, and assignment to samples."""

from pathlib import Path

import pytest

from reference_models import load_dataset
from reference_models.data.image_texts import add_image_texts, image_texts_path, read_image_texts, write_image_texts
from reference_models.data.samples import Sample
from reference_models.data.synthetic import generate
from reference_models.errors import UserError

TEXTS = {"a/1.jpg": {"tags": "red car, tree", "caption": "a car é near\u2028trees"}, "2.jpg": {"ocr": ""}}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    write_image_texts(path, TEXTS)
    assert read_image_texts(path) == TEXTS
    assert [one.name for one in tmp_path.iterdir()] == ["texts.jsonl"]


def test_lines_of_one_image_are_merged_and_the_last_wins(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    lines = ['{"image": "1.jpg", "caption": "x", "ocr": "y"}', "", '{"image": "1.jpg", "caption": "z", "tags": "t"}']
    path.write_text("\n".join(lines))
    assert read_image_texts(path) == {"1.jpg": {"caption": "z", "ocr": "y", "tags": "t"}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"texts.jsonl:2: expected a JSON object, got '\{'"),
        ("[1]", "texts.jsonl:2: expected a JSON object, got"),
        ('{"caption": "x"}', "expected an object with the file name of an image under 'image'"),
        ('{"image": 3}', "expected the file name of an image .* under 'image', got 3"),
        ('{"image": "1.jpg", "caption": ["x"]}', "expected an object of image texts by kind"),
        ('{"image": "1.jpg", "caption": "\\ud83d"}', "the text under 'caption' contains half a character"),
    ],
)
def test_invalid_lines_raise(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(f'{{"image": "0.jpg", "caption": "x"}}\n{line}\n')
    with pytest.raises(UserError, match=message):
        read_image_texts(path)


def test_each_sample_gets_the_texts_of_its_image(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    samples = [
        Sample("1", ("x",), tmp_path / "a/1.jpg", image_texts=(("caption", "old"), ("ocr", "own"))),
        Sample("2", ("x",), tmp_path / "3.jpg"),
        Sample("3", ("x",)),
    ]
    assert list(add_image_texts(samples, path, tmp_path)) == samples
    write_image_texts(path, TEXTS)
    found = [dict(sample.image_texts) for sample in add_image_texts(samples, path, tmp_path)]
    assert found == [TEXTS["a/1.jpg"] | {"ocr": "own"}, {}, {}]


@pytest.mark.parametrize("task", ["ner", "re"])
def test_load_dataset_adds_image_texts(task: str, tmp_path: Path) -> None:
    generate(tmp_path / "posts", task, 0, {"train": 30, "valid": 4, "test": 4})
    samples = load_dataset(tmp_path / "posts", "train")
    texts = read_image_texts(image_texts_path(tmp_path / "posts", "train"))
    assert [sample.image_texts for sample in samples] == [
        tuple(texts[sample.image.name].items()) for sample in samples if sample.image
    ]
    assert len(set(texts)) == 30
