"""Conversion of sentences of words to sub-words, with truncation at the length limit."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from reference_models.errors import UserError


class TooLongError(UserError):
    """A required part of a sample is beyond the length limit."""


@dataclass(frozen=True)
class Subwords:
    """Splits sentences into sub-words.

    Attributes:
        tokenizer: A fast tokenizer.
        max_length: Maximum number of sub-words, including special tokens.
    """

    tokenizer: PreTrainedTokenizerFast
    max_length: int

    def __call__(self, words: Sequence[str]) -> tuple[list[int], list[int | None]]:
        """Split a sentence into sub-words. A word without sub-words becomes the unknown token.

        Args:
            words: Words of the sentence.

        Returns:
            The ids of the sub-words, and the word index of each sub-word (None for special tokens).
        """
        encoded = self.tokenizer(list(words), is_split_into_words=True, truncation=True, max_length=self.max_length)
        ids, numbers = encoded["input_ids"], encoded.word_ids()
        seen = {number for number in numbers if number is not None}
        reached = len(words) if len(ids) < self.max_length else max(seen) + 1
        if len(seen) < reached:
            known = [word if i in seen or i >= reached else self.tokenizer.unk_token for i, word in enumerate(words)]
            return self(known)
        return ids, numbers


def word_starts(numbers: Sequence[int | None]) -> list[int]:
    """Return the index of the first sub-word of each word, given the word index of each sub-word."""
    return [numbers.index(word) for word in range(last_word(numbers) + 1)]


def last_word(numbers: Sequence[int | None]) -> int:
    """Return the index of the last word that has a sub-word."""
    return max(number for number in numbers if number is not None)
