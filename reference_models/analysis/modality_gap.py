"""Modality gap and batch attention of a trained model: both sides of the semantic loss, and AttnMixup's weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnmixup import SemanticKLLoss
from attnmixup.functional import semantic_kl
from reference_models.systems.base import System
from reference_models.systems.inference import load_batch, map_by_length
from reference_models.tasks.dataset import EncodedSplit


@dataclass(frozen=True)
class Gap:
    """Distance between the modalities.

    Attributes:
        own: Mean divergence between a text and its own image, in nats.
        other: Mean divergence between a text and the image of another sample, in nats.
        means: Divergence between the mean distributions of the modalities, in nats.
        distance: Distance between the mean log-probabilities of the modalities.
        spread: Mean distance of log-probabilities from the mean of their modality, for texts and for images.
        features: Effective number of features, exp of the mean entropy, for texts and for images.
    """

    own: float
    other: float
    means: float
    distance: float
    spread: tuple[float, float]
    features: tuple[float, float]


@torch.inference_mode()
def semantic_sides(model: System, split: EncodedSplit, batch_size: int) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities (N, D) of texts and of images that the semantic loss compares.

    Samples without an image are skipped. If the loss compares every word, a text is the mean of its words.

    Raises:
        ValueError: If the model has no semantic loss.
    """
    if (semantic := model.semantic) is None:
        raise ValueError("expected a model with a semantic loss; load the whole trained model")

    def compare(numbers: Sequence[int]) -> list[tuple[Tensor, Tensor] | None]:
        batch = load_batch(model, split.processor, [split[number] for number in numbers])
        encoded = model.encode(batch)
        image, shown = model.semantic_image(batch)
        if image is None or shown is None or not shown.any():
            return [None] * len(numbers)
        mask = None if encoded.mask is None else encoded.mask[shown]
        texts, images = semantic.distributions(encoded.h[shown], image[shown], mask=mask)
        pairs = zip(texts.cpu().float(), images.cpu().float(), strict=True)
        return [next(pairs) if has_image else None for has_image in shown.tolist()]

    sides = [pair for pair in map_by_length(split.lengths, batch_size, compare) if pair is not None]
    if not sides:
        empty = torch.empty(0, 0)
        return empty, empty
    texts, images = zip(*sides, strict=True)
    return torch.stack(texts), torch.stack(images)


def measure_gap(text: Tensor, image: Tensor, semantic: SemanticKLLoss) -> Gap:
    """Measure the gap between log-probabilities (N, D) of texts and of their images; N must be at least 2."""
    # Adjacent samples may share an image; samples half the data set apart rarely do.
    others = image.roll(len(image) // 2, dims=0)
    own, other = (semantic_kl(text, side, direction=semantic.direction).mean().item() for side in (image, others))
    (text_spread, text_features), (image_spread, image_features) = map(_spread_of, (text, image))
    mean_text, mean_image = (side.exp().mean(dim=0, keepdim=True).log() for side in (text, image))
    return Gap(
        own=own,
        other=other,
        means=semantic_kl(mean_text, mean_image, direction=semantic.direction).item(),
        distance=(text.mean(dim=0) - image.mean(dim=0)).norm().item(),
        spread=(text_spread, image_spread),
        features=(text_features, image_features),
    )


def _spread_of(side: Tensor) -> tuple[float, float]:
    """Return the `spread` and the `features` of one modality, see `Gap`."""
    return (side - side.mean(dim=0)).norm(dim=1).mean().item(), (-(side.exp() * side).sum(dim=1)).mean().exp().item()


def gap_scores(model: System, split: EncodedSplit, batch_size: int) -> dict[str, float]:
    """Return the gap as values to log; empty without a semantic loss or with fewer than two images."""
    if model.semantic is None:
        return {}
    text, image = semantic_sides(model, split, batch_size)
    if len(text) < 2:
        return {}
    gap = measure_gap(text, image, model.semantic)
    return {"gap_own": gap.own, "gap_other": gap.other, "gap_distance": gap.distance}


def project(text: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project both sides (N, D) onto their first two principal components.

    Returns:
        Projected texts (N, 2), projected images (N, 2), and the share of the variance of each component (2,).
    """
    rows = torch.cat([text, image])
    rows = rows - rows.mean(dim=0)
    _, scale, directions = torch.linalg.svd(rows, full_matrices=False)
    # The sign of a component is arbitrary: make its largest entry positive.
    directions = directions[:2]
    directions = directions * directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign()
    placed_text, placed_image = (rows @ directions.T).chunk(2)
    return placed_text, placed_image, scale[:2].square() / scale.square().sum()


@torch.inference_mode()
def batch_attention(model: System, split: EncodedSplit) -> tuple[Tensor, dict[str, float]]:
    """Compute AttnMixup's attention with all samples of a split as one batch.

    Returns:
        Weights (B, B), averaged over heads and words, and the mixer's `stats`, which are empty for a single sample.

    Raises:
        ValueError: If the model has no AttnMixup.
    """
    if (mixer := model.mixer) is None:
        raise ValueError("expected a model with AttnMixup; load the whole trained model")
    batch = load_batch(model, split.processor, [split[number] for number in range(len(split))])
    encoded = model.encode(batch)
    _, weights = mixer.attention(encoded.h, mask=encoded.mask, need_attention=True)
    stats = mixer.stats(encoded.h, batch.get("labels"), mask=encoded.mask) if len(split) > 1 else {}
    return mean_attention(weights, encoded.mask).cpu().float(), stats


def mean_attention(weights: Tensor, mask: Tensor | None) -> Tensor:
    """Average attention weights over heads and over the real words of each sample.

    Args:
        weights: (heads, B, B) or (words, heads, B, B). The first B may be 1 if all samples have the same weights.
        mask: (B, words), True for a real word; None for weights without words.

    Returns:
        Weights (B, B); each row sums to 1.
    """
    weights = weights.mean(dim=-3)
    weights = weights.expand(*weights.shape[:-2], weights.shape[-1], weights.shape[-1])
    if mask is None:
        return weights
    real = mask.T.unsqueeze(-1).to(weights.dtype)
    return (weights * real).sum(dim=0) / real.sum(dim=0)
