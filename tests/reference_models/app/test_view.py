"""HTML of the app: well-formed, escaped, and with the values of the answer."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from reference_models.analysis.crop_attention import CropAttention
from reference_models.app.answers import Answer
from reference_models.app.view import answer_view, attention, boxed_image, file_view, problem, seen
from reference_models.data.samples import Sample
from reference_models.tasks import NamedEntities, Prediction, Relations
from tests.reference_models.page_parser import HOSTILE, Page

NER, RE = NamedEntities(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]), Relations(["None", "born"])
WORDS = ("Ann", "Lee", "in", "Rome", HOSTILE)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    for name, size in (("a.png", (200, 100)), ("b.png", (20, 20)), ("c.png", (10, 30))):
        Image.new("RGB", size, "red").save(tmp_path / name)
    return Sample("x:1", WORDS, tmp_path / "a.png", (tmp_path / "b.png", tmp_path / "c.png"), head=(0, 2), tail=(3, 4))


class View(Page):
    """A parsed view: the rows of all tables, and the whole text."""

    def __init__(self, source: str) -> None:
        super().__init__(
            f"<section id='all'>{source.replace('<section', '<div').replace('</section>', '</div>')}</section>"
        )

    def rows(self) -> list[list[list[str]]]:
        return self.tables["all"]


def test_entities_are_marked_with_and_without_the_image(sample: Sample) -> None:
    both = Prediction(["B-PER", "I-PER", "O", "B-LOC", "O"], {(0, 2, "PER"): 0.75, (3, 4, "LOC"): 0.875})
    alone = Prediction(["O"] * 5)
    source = answer_view(NER, Answer(sample, both, alone, [(0, 0, 10, 10), None], None, ["a <note>"]))
    page = View(source)
    assert page.rows() == [[["entity", "probability"], ["Rome [LOC]", "87.5%"], ["Ann Lee [PER]", "75.0%"]]]
    text = page.text["all"]
    assert "With the image" in text
    assert "Without the image" in text
    assert "No entity found." in text
    assert "a <note>" in text
    assert "script" not in page.tags
    assert source.count("<mark") == 2


def test_texts_about_the_image_are_named_where_the_model_reads_them() -> None:
    sample = Sample("x:1", ("a", "b"), image_texts=(("tags", "red car"),))
    none = Prediction(["O"] * 2)
    text = View(answer_view(NER, Answer(sample, none, none, [], None, []))).text["all"]
    assert "With the texts about the image" in text
    assert "Without the texts about the image" in text


def test_relations_are_shown_with_probabilities(sample: Sample) -> None:
    source = answer_view(RE, Answer(sample, Prediction("born", {"None": 0.25, "born": 0.75}), None, [], None, []))
    page = View(source)
    assert page.rows() == [[["relation", "probability"], ["born", "75.0%"], ["None", "25.0%"]]]
    assert "relation: born" in page.text["all"]
    assert "Without the image" not in page.text["all"]
    assert "--share:75.0%" in source


def test_boxes_are_numbered_and_in_image_pixels(sample: Sample) -> None:
    page = View(boxed_image(sample.image, [(20, 10, 60, 50), None, (0, 0, 5, 6)]))
    assert page.values("viewbox") == ["0 0 200 100"]
    assert page.values("x")[:2] == ["20", "20"]
    assert ("height", "40") in page.attributes
    assert page.text["all"] == "13"
    assert page.values("aria-label") == ["The image of the post with the boxes of 2 crops"]
    assert View(boxed_image(sample.image, [])).values("aria-label") == ["The image of the post"]


def test_unknown_boxes_and_missing_crops_are_stated(sample: Sample) -> None:
    assert "are unknown" in seen(sample, [None, None])
    assert "are unknown" not in seen(sample, [(0, 0, 5, 5), None])
    assert "There are no crops." in seen(Sample("x:1", WORDS, sample.image), [])
    assert seen(sample, []).count("<figure>") == 2


def test_attention_names_the_image_and_the_crops(sample: Sample) -> None:
    shares = torch.tensor([[0.5, 0.125], [0.0, 0.25]])
    images = [path for path in (sample.image, sample.crops[1]) if path]
    found = CropAttention(["Ann", "<b>"], images, shares)
    source = attention(found, sample)
    page = View(source)
    assert page.rows() == [[["word", "image", "crop 2"], ["Ann", "50.0", "12.5"], ["<b>", "0.0", "25.0"]]]
    assert [value for value in page.values("style") if "heat" in value] == [
        f"--heat:{share}%" for share in (100, 25, 0, 50)
    ]
    nothing = attention(CropAttention(["Ann"], [sample.crops[0]], torch.zeros(1, 1)), sample)
    assert View(nothing).rows()[0][1] == ["Ann", "0.0"]


def test_errors_and_counts_are_shown() -> None:
    page = View(problem("<i>wrong"))
    assert ("role", "alert") in page.attributes
    assert page.text["all"] == "No prediction: <i>wrong"
    assert "4 posts processed, 1 with an error." in file_view({"posts": 4, "errors": 1})
    assert "2 posts processed, none with an error." in file_view({"posts": 2, "errors": 0})
