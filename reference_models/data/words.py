"""Words of a text with their character positions."""

import re
from dataclasses import dataclass


def split_words(text: str) -> list["Word"]:
    """Split a text into words at white space, as `str.split` does."""
    return [Word(match.group(), match.start(), match.end()) for match in re.finditer(r"\S+", text)]


@dataclass(frozen=True)
class Word:
    """A word and its character span [start, end) in the text."""

    text: str
    start: int
    end: int
