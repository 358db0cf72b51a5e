"""Diagnostics of both modules: whether the attention distinguishes samples, and how H* and images compare."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from attnmixup import functional
from attnmixup.criteria import IGNORED
from attnmixup.sample_attention import SampleAttention


def attention_stats(
    attention: SampleAttention, embeddings: Tensor, targets: Tensor | None = None, *, mask: Tensor | None = None
) -> dict[str, float]:
    """Measure the attention on one batch, without dropout or gradient; see :meth:`attnmixup.AttnMixup.stats`.

    Raises:
        ValueError: If fewer than two samples are real.
    """
    real = torch.ones(embeddings.shape[:-1], dtype=torch.bool, device=embeddings.device) if mask is None else mask
    by_position = real.ndim == 2 and attention.sequence != "sample"
    positions = real.T if by_position else (real.any(1) if real.ndim == 2 else real)[None]
    kept = positions.sum(1) > 1
    positions = positions[kept]
    if not len(positions):
        raise ValueError("Attention statistics need at least two real samples.")
    update: list[Tensor] = []
    hook = attention.dropout.register_forward_pre_hook(lambda module, given: update.append(given[0]))
    training = attention.training
    try:
        with torch.no_grad():
            transformed, weights = attention.eval()(embeddings, mask=mask, need_attention=True)
    finally:
        hook.remove()
        attention.train(training)
    # Sequences are compared position by position, at positions where two or more samples have a token.
    weights, rows = (part if by_position else part[None] for part in (weights, update[0]))
    stats = {
        "norm/originals": functional.upcast(embeddings[real]).norm(dim=-1).mean().item(),
        "norm/transformed": functional.upcast(transformed[real]).norm(dim=-1).mean().item(),
        "norm/update": functional.upcast(rows[kept][positions]).norm(dim=-1).mean().item(),
        "attention/common": common_share(rows[kept], positions),
    }
    entropy = entropy_over_uniform(weights[kept], positions, to_itself=attention.score != "cosine")
    if entropy is not None:
        stats["attention/entropy"] = entropy
    if targets is not None and targets.ndim == 1 and not targets.is_floating_point():
        same_class = same_class_over_chance(weights[kept], targets, positions)
        if same_class is not None:
            stats["attention/same_class"] = same_class
    return stats


def entropy_over_uniform(weights: Tensor, present: Tensor, *, to_itself: bool = True) -> float | None:
    """Divide the entropy of attention weights by that of uniform weights: 1 if all samples receive the batch mean.

    Args:
        weights: Shape ``(P, heads, R, B)`` at P positions, where R is B or 1 (the same weights for all).
        present: Boolean, shape ``(P, B)``, two or more real samples at each position.
        to_itself: Whether a sample may attend to itself, as with every score but ``"cosine"``.

    Returns:
        The mean over heads and real receivers, between 0 and 1; None if no receiver can choose among samples.
    """
    choices = present.sum(1, keepdim=True) - int(not to_itself)
    entropy = torch.special.entr(weights.double()).sum(-1).mean(1) / choices.double().log()
    chosen = entropy.expand(present.shape)[present & (choices > 1)]
    return float(chosen.mean()) if len(chosen) else None


def common_share(update: Tensor, present: Tensor) -> float:
    """Divide the squared norm of the mean update by the mean squared norm of updates: 1 if all updates are equal.

    Args:
        update: Shape ``(P, B, C)`` at P positions.
        present: Boolean, shape ``(P, B)``, as for :func:`entropy_over_uniform`.

    Returns:
        One number for all positions together, between 0 and 1.
    """
    wide = update.double().expand(*present.shape, -1).masked_fill(~present.unsqueeze(-1), 0)
    common = wide.sum(1).square().sum(-1) / present.sum(1)
    return (common.sum() / wide.square().sum().clamp_min(1e-12)).item()


def same_class_over_chance(weights: Tensor, classes: Tensor, present: Tensor) -> float | None:
    """Divide the weight on other samples of the receiver's class by their share of all other samples: 1 is chance.

    Args:
        weights: As for :func:`entropy_over_uniform`.
        classes: Integer, shape ``(B,)``; the ignored label -100 is no class.
        present: Boolean, shape ``(P, B)``.

    Returns:
        The mean over receivers that have another sample of their class; None if none has.
    """
    itself = torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    others = present[:, None, :] & present[:, :, None] & ~itself
    same = others & (classes[:, None] == classes) & (classes != IGNORED)
    given = weights.double().mean(1).expand(others.shape) * others
    share = (given * same).sum(-1) / given.sum(-1).clamp_min(1e-12)
    chance = same.sum(-1) / others.sum(-1).clamp_min(1)
    return (share[chance > 0] / chance[chance > 0]).mean().item() if bool((chance > 0).any()) else None


def semantic_stats(divergences: Tensor, present: Tensor | None = None) -> dict[str, float]:
    """Average the divergence of texts from their own image, and from the images of other samples.

    Args:
        divergences: Shape ``(B, B)``, from :meth:`attnmixup.SemanticKLLoss.divergences`.
        present: Boolean, shape ``(B,)``, True for a sample with an image; None for all.

    Returns:
        Means in nats, ``semantic/own`` for own images and ``semantic/other`` for other images.

    Raises:
        ValueError: If fewer than two samples have an image.
    """
    kept = divergences if present is None else divergences[present][:, present]
    if len(kept) < 2:
        raise ValueError("Semantic statistics need at least two samples with an image.")
    itself = torch.eye(len(kept), dtype=torch.bool, device=kept.device)
    return {"semantic/own": kept[itself].mean().item(), "semantic/other": kept[~itself].mean().item()}


def findings(stats: Mapping[str, float]) -> list[str]:
    """Describe the problems that `AttnMixup.stats` and `SemanticKLLoss.stats` show, one message per problem."""
    found = []
    if (entropy := stats.get("attention/entropy", 0)) > 0.98:
        found.append(
            f"The attention is nearly uniform (entropy {entropy:.3f} of the maximum): every sample receives the mean "
            'of the batch. Try score="cosine", which distinguishes samples.'
        )
    if (common := stats.get("attention/common", 0)) > 0.9:
        found.append(
            f"{common:.0%} of the attention update is one vector that all samples share: it acts as a bias, and "
            'LayerNorm alone would work as well. Try score="cosine".'
        )
    if (same := stats.get("attention/same_class", math.inf)) < 1.1:
        found.append(
            f"Samples of the receiver's own class get {same:.2f} times the weight expected by chance: the update "
            "carries no information about the class."
        )
    if stats.get("norm/update", math.inf) < 0.01 * stats.get("norm/originals", 0):
        found.append(
            f"The attention changes samples by {stats['norm/update'] / stats['norm/originals']:.1%} of their norm, so "
            "it does almost nothing. A gate starts at 0: check that attention.gate is in the optimizer, or "
            "train longer."
        )
    if stats.get("norm/update", 0) > 3 * stats.get("norm/originals", math.inf):
        ratio = stats["norm/update"] / max(stats["norm/originals"], 1e-12)
        found.append(
            f"The update of the attention is {ratio:.1f} times as large as the samples, so H* depends little on the "
            "sample itself. Some models of transformers initialise the mixer with a standard deviation of 1: call "
            "reset_parameters of its parts, as in docs/how-to/recipes.md."
        )
    if "norm/originals" in stats:
        ratio = stats["norm/transformed"] / max(stats["norm/originals"], 1e-12)
        if not 0.5 <= ratio <= 2:
            found.append(
                f"The norm of rows of H* is {ratio:.2f} times that of rows of H, so the head has to fit two scales: "
                "end the encoder with a LayerNorm, or lower transformed_ratio."
            )
    own, other = stats.get("semantic/own", 0), stats.get("semantic/other", 1)
    if own > 0.95 * other or other == 0:
        found.append(
            "The semantic loss does not distinguish images: the divergence of a text is "
            f"{own:.4f} nats from its own image and {other:.4f} nats from others. "
            "Try contrast=1 with standardize=True."
        )
    return found
