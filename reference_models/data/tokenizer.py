"""Tokenizers: a folder's or hub's own, or a small WordPiece or whole words learnt from the training text."""

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
UNKNOWN, FIRST_WORD = 1, 2  # ids of whole words: the one that stands for what is not known, and where the known begin


def learn_tokenizer(sentences: Iterable[Sequence[str]], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """A cased WordPiece tokenizer learnt from sentences of words; the same sentences give the same vocabulary."""
    texts = Spool(" ".join(words) for words in sentences)  # they are gone through twice
    normalizer = normalizers.BertNormalizer(lowercase=False)
    # The trainer would number continuing characters in the order of a hash map, and it breaks ties by number.
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
    """A tokenizer of whole words in lower case; the same sentences give the same vocabulary.

    Args:
        sentences: of words.
        min_count: how often a word must occur to be known.
        others: words in lower case that are known in any case.

    Returns:
        The tokenizer, whose id 0 pads and `UNKNOWN` is every word that is not known; and how many of its words, from
        `FIRST_WORD` on, occur once.
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
    """The fast tokenizer of a hub name or local folder, for sentences that are split into words.

    Raises:
        UserError: there is none under that name, or it is not a fast one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, add_prefix_space=True)
    except Exception as error:  # a damaged file can fail with almost any exception
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"model.text: no tokenizer could be loaded from {name!r} ({reason}); name a local folder, or "
            "tiny, which is learnt from the data"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"model.text: {name!r} has no fast tokenizer, which the alignment of words needs")
    return tokenizer
