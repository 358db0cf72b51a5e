"""Inputs, labels and splits of a data set."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from benchmarks.evidence.encoder import (
    PooledEncoder,
    Sentence,
    SentenceBatch,
    batches,
    cached_features,
    encoder_folder,
    tokenize,
)
from benchmarks.evidence.readers import SPLITS, Kind, Numbers, Texts, read_source
from reference_models.data.samples import Split
from reference_models.training.fingerprints import folder_fingerprint

ROWS = 4096  # rows of features that are evaluated at once


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool(ABC):
    """All rows of a data set, on the CPU.

    Attributes:
        kind: Kind of the rows, see :class:`benchmarks.evidence.readers.Texts`.
        labels: Class of each row, or tag of each word, shape ``(N,)``.
        names: Names of the classes or tags.
        splits: Rows (sentences for entities) of train, valid and test; None if each seed draws its own split.
        starts: For entities, the start of each sentence in ``labels`` and the end of the last one, shape ``(S + 1,)``.
        fingerprint: Hash of the data.
        encoder_fingerprint: Hash of the files of the encoder; None for tabular data.
    """

    kind: Kind
    labels: Tensor
    names: tuple[str, ...]
    splits: tuple[range, range, range] | None = None
    starts: Tensor | None = None
    fingerprint: str
    encoder_fingerprint: str | None = None

    @abstractmethod
    def make_encoder(self) -> tuple[nn.Module, int]:
        """Return a new module from inputs to vectors ``(B, D)``, or ``(B, L, D)`` for entities, and the width D."""

    @abstractmethod
    def inputs(self, rows: Tensor) -> Any:
        """Return the inputs of the encoder for a mini-batch."""

    @abstractmethod
    def batches(self, rows: Tensor) -> list[Tensor]:
        """Return indices into `rows` in batches of an efficient size for evaluation."""

    def split(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return training, validation and test rows: the public split, or 60, 20 and 20% drawn by seed."""
        if self.splits is not None:
            train, valid, test = (torch.tensor(part) for part in self.splits)
            return train, valid, test
        classes = self.labels.numpy()
        train, rest = train_test_split(range(len(classes)), test_size=0.4, stratify=classes, random_state=seed)
        valid, test = train_test_split(rest, test_size=0.5, stratify=classes[rest], random_state=seed)
        return torch.tensor(train), torch.tensor(valid), torch.tensor(test)

    def places(self, rows: Tensor) -> Tensor:
        """Return the indices of the words of these sentences in ``labels``; without words, the rows themselves."""
        if self.starts is None:
            return rows
        return torch.cat([torch.arange(int(self.starts[row]), int(self.starts[row + 1])) for row in rows.tolist()])

    def padded_places(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the rows without a mask, or the indices of the words ``(B, L)`` with the mask of real words."""
        if self.starts is None:
            return rows, None
        first, end = self.starts[rows].unsqueeze(1), self.starts[rows + 1].unsqueeze(1)
        places = first + torch.arange(int((end - first).max()))
        return places.minimum(end - 1), places < end

    def padded(self, rows: Tensor) -> tuple[Any, Tensor, Tensor | None]:
        """Return a mini-batch: inputs, and classes ``(B,)`` without a mask, or tags ``(B, L)`` with a mask."""
        places, mask = self.padded_places(rows)
        return self.inputs(rows), self.labels[places], mask


@dataclass(frozen=True, eq=False, kw_only=True)
class FeaturePool(Pool):
    """Rows with fixed features.

    Attributes:
        features: Features of each row (of each word for entities), shape ``(N, D)``, standardised by the training rows
            (by all rows for tabular data).
    """

    features: Tensor

    def make_encoder(self) -> tuple[nn.Module, int]:
        """See `Pool`; the features are the vectors."""
        return nn.Identity(), self.features.shape[1]

    def inputs(self, rows: Tensor) -> Tensor:
        """See `Pool`."""
        return self.features[self.padded_places(rows)[0]]

    def batches(self, rows: Tensor) -> list[Tensor]:
        """See `Pool`."""
        return list(torch.arange(len(rows)).split(ROWS))


@dataclass(frozen=True, eq=False, kw_only=True)
class SentencePool(Pool):
    """Sentences for an encoder that is fine-tuned.

    Attributes:
        sentences: The tokenised sentence of each row.
        folder: Folder of the encoder.
    """

    sentences: list[Sentence]
    folder: Path

    def make_encoder(self) -> tuple[nn.Module, int]:
        """See `Pool`; the pooled vectors of a row are concatenated, but not those of words."""
        encoder = PooledEncoder(self.folder)
        if self.starts is not None:
            return encoder, encoder.width
        return nn.Sequential(encoder, nn.Flatten()), encoder.width * len(self.sentences[0].pooling)

    def inputs(self, rows: Tensor) -> SentenceBatch:
        """See `Pool`."""
        return SentenceBatch.of([self.sentences[row] for row in rows.tolist()])

    def batches(self, rows: Tensor) -> list[Tensor]:
        """See `Pool`; sentences of similar length are together."""
        return [torch.tensor(numbers) for numbers in batches([self.sentences[row] for row in rows.tolist()])]


def pool_of_numbers(data: Numbers) -> FeaturePool:
    """Return the pool of tabular data."""
    table = torch.tensor(data.features, dtype=torch.float32)
    classes = torch.tensor(data.classes, dtype=torch.long)
    return FeaturePool(
        kind=data.kind,
        features=_standardised(table, table),
        labels=classes,
        names=data.labels,
        fingerprint=data.fingerprint(),
    )


def pool_of_texts(data: Texts, features: dict[Split, Tensor]) -> FeaturePool:
    """Return the pool of sentences with the features of each split."""
    every = _standardised(torch.cat([features[split].float() for split in SPLITS]), features["train"].float())
    return FeaturePool(features=every, **_labelled(data))


def pool_of_sentences(data: Texts, folder: Path) -> SentencePool:
    """Return the pool of sentences for the encoder in a folder."""
    rows = [row for split in SPLITS for row in data.rows[split]]
    return SentencePool(sentences=tokenize(folder, rows, data.kind), folder=folder, **_labelled(data))


def _labelled(data: Texts) -> dict[str, Any]:
    number = {label: place for place, label in enumerate(data.labels)}
    rows = [row for split in SPLITS for row in data.rows[split]]
    by_word = data.kind == "entities"
    ends = torch.tensor([len(data.rows[split]) for split in SPLITS]).cumsum(0).tolist()
    return {
        "kind": data.kind,
        "labels": torch.tensor([number[tag] for row in rows for tag in row.tags]),
        "names": data.labels,
        "splits": (range(ends[0]), range(ends[0], ends[1]), range(ends[1], ends[2])),
        "starts": torch.tensor([0, *(len(row.label) for row in rows)]).cumsum(0) if by_word else None,
        "fingerprint": data.fingerprint(),
    }


def _standardised(features: Tensor, of: Tensor) -> Tensor:
    return (features - of.mean(0)) / of.std(0).clamp_min(1e-3)


@lru_cache(maxsize=2)
def load_pool(source: str, encoder: str, fine_tuned: bool, folder: Path, cache: Path) -> Pool:
    """Read a source into a pool: its sentences for an encoder that is fine-tuned, or its cached features."""
    data = read_source(source, folder)
    if isinstance(data, Numbers):
        return pool_of_numbers(data)
    weights = encoder_folder(encoder)
    fingerprint = folder_fingerprint(weights)
    if fine_tuned:
        return replace(pool_of_sentences(data, weights), encoder_fingerprint=fingerprint)
    features = cached_features(weights, data, cache / f"{data.fingerprint()}-{fingerprint}.safetensors")
    return replace(pool_of_texts(data, features), encoder_fingerprint=fingerprint)
