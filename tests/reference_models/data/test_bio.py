"""Conversion between entity spans and BIO tags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_models.data.bio import check_tag, is_tag, spans, tags_of_spans
from reference_models.errors import UserError

TAGS = ("O", "B-a", "I-a", "B-b c", "I-b c", "B-I-", "I-I-")


@pytest.mark.parametrize("tag", TAGS)
def test_valid_tags_pass(tag: str) -> None:
    assert is_tag(tag)
    assert check_tag(tag, "here") == tag


@pytest.mark.parametrize("tag", ["", "o", "B", "B-", "I-", "b-a", "S-a", "-a"])
def test_invalid_tags_raise(tag: str) -> None:
    assert not is_tag(tag)
    with pytest.raises(UserError, match=r"here: unknown tag .* expected O, B-TYPE or I-TYPE"):
        check_tag(tag, "here")


@given(st.lists(st.sampled_from(TAGS), max_size=8))
def test_entities_survive_a_round_trip_through_tags(tags: list[str]) -> None:
    entities = spans(tags)
    again = tags_of_spans(len(tags), entities, "here")
    assert spans(again) == entities
    assert sum(tag.startswith("B-") for tag in again) == len(entities)


@pytest.mark.parametrize(
    ("entity", "message"), [((1, 3, "b"), "overlaps"), ((2, 2, "b"), "empty"), ((2, 4, "b"), "not")]
)
def test_overlapping_empty_or_out_of_range_entities_raise(entity: tuple[int, int, str], message: str) -> None:
    with pytest.raises(UserError, match=rf"here: the entity \[{entity[0]}, {entity[1]}\] \(b\) .*{message}"):
        tags_of_spans(3, [(0, 2, "a"), entity], "here")
