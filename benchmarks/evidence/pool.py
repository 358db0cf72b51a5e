"""Features, labels and splits of a data set."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from benchmarks.evidence.encoder import cached_features
from benchmarks.evidence.readers import SPLITS, Kind, Numbers, Texts, read_source
from reference_models.data.samples import Split


@dataclass(frozen=True, eq=False)
class Pool:
    """All rows of a data set, on the CPU.

    Attributes:
        kind: Kind of the rows, see :class:`benchmarks.evidence.readers.Texts`.
        features: Features of each row (of each word for entities), shape ``(N, D)``, standardised by the training rows
            (by all rows for tabular data).
        labels: Class of each row, or tag of each word, shape ``(N,)``.
        names: Names of the classes or tags.
        splits: Rows (sentences for entities) of train, valid and test; None if each seed draws its own split.
        starts: For entities, the start of each sentence in ``features`` and the end of the last one, shape
            ``(S + 1,)``.
        fingerprint: Hash of the data.
    """

    kind: Kind
    features: Tensor
    labels: Tensor
    names: tuple[str, ...]
    splits: tuple[range, range, range] | None
    starts: Tensor | None
    fingerprint: str

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
        """Return the indices of the words of these sentences in ``features``; without words, the rows themselves."""
        if self.starts is None:
            return rows
        return torch.cat([torch.arange(self.starts[row], self.starts[row + 1]) for row in rows.tolist()])

    def padded(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return a mini-batch: features ``(B, D)`` and classes ``(B,)``, or ``(B, L, D)``, tags ``(B, L)`` and mask."""
        if self.starts is None:
            return self.features[rows], self.labels[rows], None
        first, end = self.starts[rows].unsqueeze(1), self.starts[rows + 1].unsqueeze(1)
        places = first + torch.arange(int((end - first).max()))
        mask = places < end
        places = places.minimum(end - 1)
        return self.features[places], self.labels[places], mask


def pool_of_numbers(data: Numbers) -> Pool:
    """Return the pool of tabular data."""
    table = torch.tensor(data.features, dtype=torch.float32)
    classes = torch.tensor(data.classes, dtype=torch.long)
    return Pool(data.kind, _standardised(table, table), classes, data.labels, None, None, data.fingerprint())


def pool_of_texts(data: Texts, features: dict[Split, Tensor]) -> Pool:
    """Return the pool of sentences with the features of each split."""
    number = {label: place for place, label in enumerate(data.labels)}
    rows = [row for split in SPLITS for row in data.rows[split]]
    by_word = data.kind == "entities"
    labels = torch.tensor([number[tag] for row in rows for tag in (row.label if by_word else (row.label,))])
    ends = torch.tensor([len(data.rows[split]) for split in SPLITS]).cumsum(0).tolist()
    splits = (range(ends[0]), range(ends[0], ends[1]), range(ends[1], ends[2]))
    starts = torch.tensor([0, *(len(row.label) for row in rows)]).cumsum(0) if by_word else None
    every = _standardised(torch.cat([features[split].float() for split in SPLITS]), features["train"].float())
    return Pool(data.kind, every, labels, data.labels, splits, starts, data.fingerprint())


def _standardised(features: Tensor, of: Tensor) -> Tensor:
    return (features - of.mean(0)) / of.std(0).clamp_min(1e-3)


@lru_cache(maxsize=2)
def load_pool(source: str, encoder: str, folder: Path, cache: Path) -> Pool:
    """Read a source and its cached features into a pool."""
    data = read_source(source, folder)
    if isinstance(data, Numbers):
        return pool_of_numbers(data)
    return pool_of_texts(data, cached_features(encoder, source, data, cache))
