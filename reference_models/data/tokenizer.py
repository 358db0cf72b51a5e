"""Tokenizers: loaded from a folder or the hub, or learnt from the training text (WordPiece or whole words)."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import WordLevel, WordPiece
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from reference_models.data.spool import Spool
from reference_models.errors import UserError

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
UNKNOWN, FIRST_WORD = 1, 2  # ids in a whole-word vocabulary: the unknown word, and the first known word


def learn_tokenizer(sentences: Iterable[Sequence[str]], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Learn a cased WordPiece tokenizer from sentences of words; the same sentences give the same vocabulary."""
    texts = Spool(" ".join(words) for words in sentences)  # stored, because they are read twice
    normalizer = normalizers.BertNormalizer(lowercase=False)
    # The trainer numbers continuation characters in hash-map order and breaks ties by number. Sorting them first makes
    # the vocabulary deterministic.
    characters = {character for text in texts for character in normalizer.normalize_str(text)}
    inside = [f"##{character}" for character in sorted(characters) if not character.isspace()]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size, min_frequency=2, special_tokens=[*SPECIAL.values(), *inside], show_progress=False
    )
    learnt = Tokenizer(WordPiece(unk_token="[UNK]"))
    learnt.normalizer, learnt.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    learnt.train_from_iterator(texts, trainer)

    tokenizer = Tokenizer(WordPiece(vocab=learnt.get_vocab(), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = learnt.normalizer, learnt.pre_tokenizer
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def learn_words(
    sentences: Iterable[Sequence[str]], min_count: int, others: Collection[str] = ()
) -> tuple[PreTrainedTokenizerFast, int]:
    """Build a tokenizer of lower-cased whole words; the same sentences give the same vocabulary.

    Args:
        sentences: Sentences of words.
        min_count: Minimum number of occurrences of a word in the vocabulary.
        others: Lower-cased words that are always in the vocabulary.

    Returns:
        The tokenizer (id 0 is padding, `UNKNOWN` is any unknown word), and the number of its words that occur once;
        their ids start at `FIRST_WORD`.
    """
    counts = Counter(word.lower() for words in sentences for word in words)
    known = {word for word, count in counts.items() if count >= min_count} | set(others)
    rare = sorted(word for word in known if counts[word] == 1)
    frequent = sorted(known.difference(rare))
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *rare, *frequent])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"), len(rare)


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer from the hub or a local folder, for sentences that are split into words.

    Raises:
        UserError: If no tokenizer can be loaded, or it is not a fast one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, add_prefix_space=True)
    except Exception as error:  # a damaged file can fail with almost any exception
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"model.text: no tokenizer could be loaded from {name!r} ({reason}); give the name of a model on the hub, "
            "a local folder, or tiny, which is learnt from the data"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"model.text: {name!r} has no fast tokenizer, which is needed to align words with sub-words; choose "
            "another model"
        )
    return tokenizer
