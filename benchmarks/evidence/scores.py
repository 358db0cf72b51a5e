"""Scores in percent: micro- and macro-F1, F1 of frequent, medium and rare classes, and calibration error."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.evidence.readers import Kind
from reference_models.data.bio import spans

BINS = 15
NONE = "None"


@dataclass(frozen=True)
class Counts:
    """True positives, predictions and true labels of each class, shape ``(K,)`` each, in float64."""

    correct: Tensor
    predicted: Tensor
    true: Tensor

    def micro(self) -> float:
        """Return micro-F1 in percent; 0 if there are no true labels and no predictions."""
        total = (self.predicted + self.true).sum()
        return float(200 * self.correct.sum() / total.clamp_min(1))

    def by_class(self) -> Tensor:
        """Return the F1 of each class in percent, shape ``(K,)``; NaN for a class without a true label."""
        f1 = 200 * self.correct / (self.predicted + self.true).clamp_min(1)
        return torch.where(self.true > 0, f1, torch.nan)


def count_labels(predicted: Tensor, true: Tensor, names: Sequence[str], kind: Kind) -> Counts:
    """Count predicted and true classes, shape ``(N,)`` each. The relation ``None`` is not counted."""
    classes = len(names)
    matrix = torch.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes).double()
    kept = torch.ones(classes, dtype=torch.float64)
    if kind == "relations":
        kept[list(names).index(NONE)] = 0
    return Counts(matrix.diagonal() * kept, matrix.sum(0) * kept, matrix.sum(1) * kept)


def entity_types(names: Sequence[str]) -> list[str]:
    """Return the entity types of BIO tags."""
    return sorted({name.partition("-")[2] for name in names if name != "O"})


def count_entities(predicted: Tensor, true: Tensor, lengths: Sequence[int], names: Sequence[str]) -> Counts:
    """Count whole entities in concatenated sentences: tags of shape ``(W,)`` each, W the sum of the lengths."""
    types = entity_types(names)
    numbers = torch.zeros(3, len(types), dtype=torch.float64)
    sides = [[names[tag] for tag in tags.tolist()] for tags in (predicted, true)]
    start = 0
    for length in lengths:
        predicted_spans, true_spans = (spans(side[start : start + length]) for side in sides)
        for place, found in enumerate((predicted_spans & true_spans, predicted_spans, true_spans)):
            for _, _, kind in found:
                numbers[place, types.index(kind)] += 1
        start += length
    return Counts(*numbers)


def class_groups(by_class: Tensor, training_counts: Tensor) -> dict[str, float | None]:
    """Return the mean F1 of the most frequent third of classes, of the middle third and of the rarest third.

    Args:
        by_class: F1 of each class, NaN for a class that does not occur, shape ``(K,)``.
        training_counts: Number of training samples of each class, shape ``(K,)``.

    Returns:
        ``head``, ``medium`` and ``tail``; all None if every class is equally frequent or there are fewer than three.
    """
    occurring = ~by_class.isnan()
    scores, counts = by_class[occurring], training_counts[occurring]
    names = ("head", "medium", "tail")
    if len(counts) < len(names) or counts.min() == counts.max():
        return dict.fromkeys(names)
    order = counts.argsort(descending=True, stable=True)
    return {name: float(scores[part].mean()) for name, part in zip(names, order.tensor_split(3), strict=True)}


def expected_calibration_error(probabilities: Tensor, true: Tensor) -> float:
    """Return the expected calibration error in percent.

    This is the mean distance between confidence and accuracy over 15 bins of equal width, weighted by their number of
    samples.

    Args:
        probabilities: Predicted probabilities, shape ``(N, K)``.
        true: True classes, shape ``(N,)``.
    """
    confidence, predicted = probabilities.double().max(-1)
    bins = (confidence * BINS).long().clamp_max(BINS - 1)
    # Sum of (accuracy - confidence) per bin. Its absolute value divided by N is the share of the bin in the error.
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, (predicted == true).double() - confidence)
    return float(100 * gaps.abs().sum() / len(true))
