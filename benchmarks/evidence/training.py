"""Training of one cell: a small head on frozen features, with one arm, learning rate and seed."""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnmixup import AttnMixup
from benchmarks.evidence.arms import make_mixer
from benchmarks.evidence.config import Training
from benchmarks.evidence.diagnostics import diagnose
from benchmarks.evidence.pool import Pool
from benchmarks.evidence.scores import (
    Counts,
    class_groups,
    count_entities,
    count_labels,
    entity_types,
    expected_calibration_error,
)
from benchmarks.evidence.subsets import draw_subset

CONVERGED = 0.99


class Head(nn.Module):
    """Linear, GELU, the mixer, Linear. A seed gives body and classifier the same initial weights in every arm."""

    def __init__(self, features: int, hidden: int, classes: int, options: dict[str, Any] | None, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(features, hidden), nn.GELU())
        self.classifier = nn.Linear(hidden, classes)
        self.mixer: AttnMixup | None = make_mixer(options, hidden)

    def loss(self, features: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        """Return the mean loss of a mini-batch, or of its final set if there is a mixer."""
        embeddings = self.body(features)
        if self.mixer is not None:
            mixed = self.mixer(embeddings, labels, mask=mask)
            return mixed.loss(F.cross_entropy, self.classifier(mixed.embeddings))
        logits = self.classifier(embeddings)
        if mask is not None:
            logits, labels = logits[mask], labels[mask]
        return F.cross_entropy(logits, labels)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits for evaluation, without the mixer."""
        logits: Tensor = self.classifier(self.body(features))
        return logits


@dataclass(frozen=True)
class ScoredPart:
    """Validation or test rows with their features and labels."""

    features: Tensor
    labels: Tensor
    lengths: list[int]
    pool: Pool

    @classmethod
    def of(cls, pool: Pool, rows: Tensor) -> "ScoredPart":
        """Select rows of a pool."""
        places = pool.places(rows)
        lengths = [] if pool.starts is None else (pool.starts[rows + 1] - pool.starts[rows]).tolist()
        return cls(pool.features[places], pool.labels[places], lengths, pool)

    def logits(self, head: Head) -> Tensor:
        """Return the logits of all rows or words."""
        with torch.inference_mode():
            return head.eval()(self.features)

    def counts(self, logits: Tensor) -> Counts:
        """Count entities or classes."""
        predicted = logits.argmax(-1)
        if self.pool.kind == "entities":
            return count_entities(predicted, self.labels, self.lengths, self.pool.names)
        return count_labels(predicted, self.labels, self.pool.names, self.pool.kind)


def train_cell(
    pool: Pool, subset: dict[str, float], training: Training, options: dict[str, Any] | None, rate: float, seed: int
) -> dict[str, Any]:
    """Train and score one cell.

    Subset, mini-batches and initial weights of body and classifier depend only on the seed, so that arms are paired.

    Returns:
        Scores of the final model on validation and test rows, the validation curve, and statistics of the attention.
    """
    rows, valid_rows, test_rows = pool.split(seed)
    classes = pool.labels[rows] if pool.kind != "entities" else None
    rows = draw_subset(rows, classes, subset, seed)
    valid, test = ScoredPart.of(pool, valid_rows), ScoredPart.of(pool, test_rows)
    head = Head(pool.features.shape[1], training.hidden, len(pool.names), options, seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=training.weight_decay, fused=True)
    batches = draw_batches(rows, training.batch_size, training.steps, seed)
    points = {round(training.steps * (point + 1) / training.evaluations) for point in range(training.evaluations)}
    curve, seconds = [], 0.0
    for step, batch in enumerate(batches):
        start = time.perf_counter()
        head.train()
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / training.steps)) / 2
        loss = head.loss(*pool.padded(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds += time.perf_counter() - start
        if step + 1 in points:
            curve.append((step + 1, valid.counts(valid.logits(head)).micro()))
    epoch = len(rows) / len(batches[0])
    final = curve[-1][1]
    return {
        "valid": final,
        "valid_best": max(score for _, score in curve),
        "epochs_to_99": next(step for step, score in curve if score >= CONVERGED * final) / epoch,
        "epochs": training.steps / epoch,
        "curve": curve,
        "seconds": seconds,
        "training_rows": len(rows),
        "test": _test_scores(head, test, training_counts(pool, rows)),
        "diagnostics": diagnose(head, [pool.padded(batch) for batch in batches[:8]]),
    }


def draw_batches(rows: Tensor, size: int, steps: int, seed: int) -> Tensor:
    """Return the rows of every step, shape ``(steps, size)``. Every epoch has a new order, and all batches one size."""
    generator = torch.Generator().manual_seed(seed)
    size = min(size, len(rows))
    epochs = math.ceil(steps * size / len(rows))
    order = torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(epochs)])
    return rows[order[: steps * size].reshape(steps, size)]


def training_counts(pool: Pool, rows: Tensor) -> Tensor:
    """Return the number of training samples of each class, or of entities of each type."""
    places = pool.places(rows)
    counts = torch.bincount(pool.labels[places], minlength=len(pool.names))
    if pool.kind != "entities":
        return counts
    first = {f"B-{kind}": place for place, kind in enumerate(entity_types(pool.names))}
    by_type = torch.zeros(len(first), dtype=torch.long)
    for name, count in zip(pool.names, counts, strict=True):
        if name in first:
            by_type[first[name]] = count
    return by_type


def _test_scores(head: Head, test: ScoredPart, counts_of_training: Tensor) -> dict[str, float | None]:
    logits = test.logits(head)
    counts = test.counts(logits)
    by_class = counts.by_class()
    return {
        "micro": counts.micro(),
        "macro": float(by_class.nanmean()),
        **class_groups(by_class, counts_of_training),
        "ece": expected_calibration_error(logits.softmax(-1), test.labels),
    }
