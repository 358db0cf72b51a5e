"""Splitting a text into words with character offsets."""

from hypothesis import given
from hypothesis import strategies as st

from reference_models.data.words import split_words


@given(st.text())
def test_words_match_str_split_and_have_correct_offsets(text: str) -> None:
    words = split_words(text)
    assert [word.text for word in words] == text.split()
    assert all(text[word.start : word.end] == word.text for word in words)
    assert [word.start for word in words] == sorted({word.start for word in words})
