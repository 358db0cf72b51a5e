"""One post: entities are found in the sentence, pictures stand where the model looks, the answer is readable."""

from pathlib import Path

import pytest
from PIL import Image

from reference_models.data.samples import Sample
from reference_models.errors import UserError
from reference_models.prediction import describe, make_sample


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_without_crops_the_picture_is_its_own_crop(picture: Path) -> None:
    assert make_sample("a b", image=picture).crops == (picture,)
    assert make_sample("a b", image=picture, crops=[picture, picture]).crops == (picture, picture)
    assert make_sample("a b").crops == ()


def test_entities_are_found_word_by_word_and_not_twice_in_one_place() -> None:
    sample = make_sample("Ann met Ann Lee and Ann", head="Ann Lee", tail="Ann")
    assert (sample.head, sample.tail) == ((2, 4), (0, 1))
    sample = make_sample("Ann met Ann", head="Ann", tail="Ann")
    assert (sample.head, sample.tail) == ((0, 1), (2, 3))


@pytest.mark.parametrize(("text", "head"), [("Ann met Bob", "An"), ("Ann met Bob", ""), ("Ann met Bob", "Bob Ann")])
def test_an_entity_that_is_not_there_is_named(text: str, head: str) -> None:
    with pytest.raises(UserError, match=f"the head entity '{head}' does not stand in the sentence 'Ann met Bob'"):
        make_sample(text, head=head, tail="Bob")


def test_an_empty_sentence_is_an_error() -> None:
    with pytest.raises(UserError, match="expected a sentence"):
        make_sample("  ")


def test_predictions_in_plain_words() -> None:
    sample = Sample("x:1", ("Ann", "Lee", "in", "Rome"), head=(0, 2), tail=(3, 4))
    assert describe(sample, ["B-PER", "I-PER", "O", "B-LOC"]) == "Ann Lee [PER], Rome [LOC]"
    assert describe(sample, ["O"] * 4) == "no entity"
    assert describe(sample, "/per/loc/born") == "Ann Lee --[/per/loc/born]--> Rome"
