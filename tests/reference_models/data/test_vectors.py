"""Word vectors: reading the requested words, errors for invalid files, vocabularies, and embedding tables."""

from pathlib import Path

import pytest
import torch
from torch import nn

from reference_models.data.tokenizer import FIRST_WORD, UNKNOWN, learn_words
from reference_models.data.vectors import read_vectors
from reference_models.encoders.words import fill_words
from reference_models.errors import UserError

SENTENCES = [("Rome", "is", "old"), ("rome", "is", "new"), ("Paris",)]


@pytest.fixture
def vectors(tmp_path: Path) -> str:
    (tmp_path / "glove.txt").write_text("rome 1 2 3\nparis 4 5 6\n, 7 8 9\n")
    return str(tmp_path / "glove.txt")


def test_only_requested_vectors_are_read(vectors: str) -> None:
    assert read_vectors(vectors, {"rome", "lima"}) == {"rome": [1.0, 2.0, 3.0]}
    assert read_vectors("none", {"rome"}) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a 1 2\nb 3\n", r"glove\.txt:2: expected 2 numbers, as on the lines before, got 1"),
        (b"a 1 x\n", r"glove\.txt:1: expected a word and numbers"),
        (b"a \xff\n", r"glove\.txt: expected UTF-8"),
    ],
)
def test_invalid_or_missing_file_raises(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_vectors(str(tmp_path / "glove.txt"), {"a"})
    with pytest.raises(UserError, match=r"model\.word_vectors: no\.txt cannot be read"):
        read_vectors("no.txt", {"a"})


def test_vocabulary_has_frequent_words_and_words_with_vectors(vectors: str) -> None:
    tokenizer, rare = learn_words(SENTENCES, 2, read_vectors(vectors, {"paris", "old"}))
    assert (rare, tokenizer.convert_tokens_to_ids("paris")) == (1, FIRST_WORD)
    assert set(tokenizer.get_vocab()) == {"[PAD]", "[UNK]", "rome", "is", "paris"}
    ids = tokenizer(["ROME", "is", "old", "Paris"], is_split_into_words=True)
    assert ids.tokens() == ["rome", "is", "[UNK]", "paris"]
    assert ids.word_ids() == [0, 1, 2, 3]
    assert learn_words(SENTENCES[::-1], 2)[0].get_vocab() == learn_words(SENTENCES, 2)[0].get_vocab()


def test_words_that_occur_once_have_the_first_ids() -> None:
    """A word that has a vector but does not occur in the sentences is not one of them."""
    tokenizer, rare = learn_words(SENTENCES, 1, {"lima"})
    expected = ["[PAD]", "[UNK]", "new", "old", "paris", "is", "lima", "rome"]
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == expected
    assert (tokenizer.unk_token_id, tokenizer.convert_ids_to_tokens(FIRST_WORD), rare) == (UNKNOWN, "new", 3)


def test_vectors_fill_the_rows_of_their_words(vectors: str) -> None:
    ids = learn_words(SENTENCES, 1)[0].get_vocab()
    table = nn.Embedding(len(ids), 3)
    before = table.weight.detach().clone()
    fill_words(table, vectors, ids)
    assert table.weight[ids["rome"]].tolist() == [1, 2, 3]
    assert table.weight[ids["paris"]].tolist() == [4, 5, 6]
    assert torch.equal(table.weight[ids["old"]], before[ids["old"]])
    with pytest.raises(UserError, match="has vectors of width 3, but the system expects width 5"):
        fill_words(nn.Embedding(len(ids), 5), vectors, ids)
