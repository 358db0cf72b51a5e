"""Examples in the report: selection, marked spans, and thumbnail size."""

from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reference_models.data.samples import Sample
from reference_models.report.examples import example, is_right, labelled, pick, pick_examples, sentence, thumbnail
from reference_models.tasks import NamedEntities, Relations, Task
from reference_models.tasks.ner import tags_of
from tests.reference_models.page_parser import HOSTILE, Page

TAGS = tuple(tags_of(("PER", "LOC", "ORG", "MISC")))

NER, RE = NamedEntities(TAGS), Relations(["None", "peer"])
PER, NOTHING = ["B-PER", "O"], ["O", "O"]


def row(true: object, predicted: object) -> dict[str, Any]:
    return {
        "id": "test.txt:1",
        "words": ["Ada", HOSTILE],
        "true": true,
        "predicted": predicted,
        "head": [0, 1],
        "tail": [1, 2],
    }


def test_picks_are_evenly_spaced() -> None:
    rows = [{"id": number} for number in range(10)]
    assert pick(rows, 5) == [rows[0], rows[2], rows[4], rows[6], rows[8]]
    assert pick(rows, 3) == [rows[0], rows[3], rows[6]]
    assert pick(rows[1:3], 5) == rows[1:3]


def test_examples_without_any_label_are_skipped() -> None:
    right, wrong, empty = row(PER, PER), row(PER, NOTHING), row(NOTHING, NOTHING)
    assert pick_examples(NER, [empty, right, wrong, empty, right], 6) == ([right, right], [wrong])
    assert pick_examples(RE, [row("None", "None"), row("None", "peer")], 6) == ([], [row("None", "peer")])


def test_cut_sentence_without_missed_entities_is_right() -> None:
    assert is_right(NER, row(PER, ["B-PER"]))
    assert not is_right(NER, row(PER, NOTHING))


def test_spans_may_overlap() -> None:
    marked = sentence(["a", "b", "c", "d"], [(0, 2, "head"), (1, 3, "tail")])
    assert Page(marked).text[""] == "a\xa0head b\xa0head, tail c\xa0tail d"


def test_adjacent_spans_of_one_type_get_two_marks() -> None:
    assert sentence(["a", "b"], [(0, 1, "PER"), (1, 2, "PER")]).count("<mark") == 2


def test_marks_distinguish_right_and_wrong_spans() -> None:
    classes = Page(sentence(["a", "b"], [(0, 1, "PER"), (1, 2, "LOC")], {(0, 1, "PER")})).values("class")
    assert classes == ["right", "wrong"]


@pytest.mark.parametrize(("task", "value"), [(NER, row(PER, NOTHING)), (RE, row("peer", "None"))])
def test_words_are_escaped(task: Task, value: dict[str, Any]) -> None:
    for written in (labelled(task, value), example(task, value, Sample("test.txt:1", tuple(value["words"])))):
        assert HOSTILE in Page(written).text[""]


@pytest.mark.parametrize(("size", "shown"), [((640, 320), (240, 120)), ((30, 90), (80, 240)), ((2000, 1), (240, 1))])
def test_thumbnail_keeps_proportions(size: tuple[int, int], shown: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    page = Page(thumbnail(tmp_path / "a.png", 240))
    (source,) = page.values("src")
    image = Image.open(BytesIO(b64decode(source.split(",")[1])))
    assert image.size == shown
    assert image.getpixel((0, 0)) == pytest.approx((255, 0, 0), abs=3)
    assert (page.values("width"), page.values("height")) == ([str(shown[0])], [str(shown[1])])
