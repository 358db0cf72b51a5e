"""The learned WordPiece tokenizer: reproducible, cased, and with the special tokens at the ids the encoder expects."""

import random
from pathlib import Path

import pytest

from reference_models.data.tokenizer import SPECIAL, learn_tokenizer, load_tokenizer
from reference_models.errors import UserError

SENTENCES = [["Scarlet", "Vexmor", "is", "here"], ["so", "is", "Azure", "Kolbrin"]] * 3


def test_same_sentences_give_the_same_vocabulary() -> None:
    rng = random.Random(0)
    sentences = [["".join(rng.choices("abcdefgh", k=5)) for _ in range(6)] for _ in range(100)]  # many frequency ties
    vocabularies = [learn_tokenizer(sentences, 150).get_vocab() for _ in range(5)]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)
    assert len(vocabularies[0]) == 150


def test_special_tokens_have_the_first_ids_and_enclose_a_sentence() -> None:
    tokenizer = learn_tokenizer(SENTENCES, 80)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL.values())) == list(range(len(SPECIAL)))
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(["Scarlet", "is"], is_split_into_words=True)["input_ids"])
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    assert "is" in tokens


def test_case_is_kept() -> None:
    tokenizer = learn_tokenizer([["Amber", "amber"]] * 5, 80)
    assert tokenizer("Amber")["input_ids"] != tokenizer("amber")["input_ids"]


def test_folder_without_a_tokenizer_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.text: no tokenizer could be loaded from"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("content", ["", "{", '{"model": 3}', "[]"])
def test_damaged_tokenizer_raises_a_one_line_error(content: str, tmp_path: Path) -> None:
    learn_tokenizer(SENTENCES, 80).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"model\.text: no tokenizer could be loaded from") as error:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(error.value)
