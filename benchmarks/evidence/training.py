"""Training of one cell: a small head on features or on an encoder, with one arm, learning rate and seed."""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnmixup import AttnMixup, MixedBatch
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
    """Encoder, Linear, GELU, the mixer, Linear. A seed gives these layers the same initial weights in every arm."""

    def __init__(self, pool: Pool, hidden: int, options: dict[str, Any] | None, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder, width = pool.make_encoder()
        self.body = nn.Sequential(nn.Linear(width, hidden), nn.GELU())
        self.classifier = nn.Linear(hidden, len(pool.names))
        self.mixer: AttnMixup | None = make_mixer(options, hidden)

    def embeddings(self, inputs: Any) -> Tensor:
        """Return what the mixer sees, shape ``(B, C)``, or ``(B, L, C)`` for entities."""
        embeddings: Tensor = self.body(self.encoder(inputs))
        return embeddings

    def loss(self, inputs: Any, labels: Tensor, mask: Tensor | None) -> Tensor:
        """Return the mean loss of a mini-batch, or of its final set if there is a mixer."""
        embeddings = self.embeddings(inputs)
        if self.mixer is not None:
            mixed: MixedBatch = self.mixer(embeddings, labels, mask=mask)
            return mixed.loss(F.cross_entropy, self.classifier(mixed.embeddings))
        logits = self.classifier(embeddings)
        if mask is not None:
            logits, labels = logits[mask], labels[mask]
        return F.cross_entropy(logits, labels)

    def forward(self, inputs: Any) -> Tensor:
        """Return logits for evaluation, without the mixer."""
        logits: Tensor = self.classifier(self.embeddings(inputs))
        return logits

    def groups(self, rate: float, head_factor: float) -> list[dict[str, Any]]:
        """Return parameter groups for an optimizer: the encoder at `rate`, the other layers `head_factor` times it."""
        encoder = list(self.encoder.parameters())
        known = set(map(id, encoder))
        others = [parameter for parameter in self.parameters() if id(parameter) not in known]
        groups = [{"params": others, "lr": rate * head_factor}]
        return [{"params": encoder, "lr": rate}, *groups] if encoder else groups


@dataclass(frozen=True)
class ScoredPart:
    """Validation or test rows with their labels."""

    rows: Tensor
    labels: Tensor
    lengths: list[int]
    pool: Pool

    @classmethod
    def of(cls, pool: Pool, rows: Tensor) -> "ScoredPart":
        """Select rows of a pool."""
        lengths = [] if pool.starts is None else (pool.starts[rows + 1] - pool.starts[rows]).tolist()
        return cls(rows, pool.labels[pool.places(rows)], lengths, pool)

    def logits(self, head: Head) -> Tensor:
        """Return the logits of all rows or words."""
        head.eval()
        found: list[Tensor] = [torch.empty(0)] * len(self.rows)
        for numbers in self.pool.batches(self.rows):
            inputs, _, mask = self.pool.padded(self.rows[numbers])
            with torch.inference_mode():
                logits = head(inputs)
            for place, number in enumerate(numbers.tolist()):
                found[number] = logits[place, None] if mask is None else logits[place][mask[place]]
        return torch.cat(found)

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
    head = Head(pool, training.hidden, options, seed)
    optimizer = torch.optim.AdamW(
        head.groups(rate, training.head_factor), weight_decay=training.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / training.steps)) / 2
    )
    batches = draw_batches(rows, training.batch_size, training.steps, seed)
    points = {round(training.steps * (point + 1) / training.evaluations) for point in range(training.evaluations)}
    curve, seconds = [], 0.0
    for step, batch in enumerate(batches):
        start = time.perf_counter()
        head.train()
        loss = head.loss(*pool.padded(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
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
