"""Words of a text with their places in it."""

import re
from dataclasses import dataclass


def split_words(text: str) -> list["Word"]:
    """The words of a text, which white space divides, as `str.split` gives them."""
    return [Word(match.group(), match.start(), match.end()) for match in re.finditer(r"\S+", text)]


@dataclass(frozen=True)
class Word:
    """A word and its characters [start, end) in the text."""

    text: str
    start: int
    end: int
