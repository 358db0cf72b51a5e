"""What the attention of a trained arm does: whether it tells samples apart, and how H* compares with H."""

import math
from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from benchmarks.evidence.training import Head


def diagnose(head: "Head", batches: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> dict[str, float | None]:
    """Means over mini-batches of training rows, without dropout; empty for an arm that uses no row of H*.

    Returns:
        ``norm_h`` and ``norm_transformed``: mean length of the rows of H and H*. With attention weights also
        ``entropy``: of the weights over that of uniform ones; ``common``: share of the squared update that is the
        same vector for all rows; ``same_class``: weight on other samples of the class of the receiver, over that of
        uniform weights (None for tag sequences).
    """
    if head.mixer is None or head.mixer.options.never_transforms(len(batches[0][0])):
        return {}
    head.eval()
    with torch.no_grad():
        numbers = [
            _of_batch(head.mixer.attention, head.body(features), labels, mask) for features, labels, mask in batches
        ]
    found = {name: [value for number in numbers if (value := number.get(name)) is not None] for name in numbers[0]}
    return {name: mean(values) if values else None for name, values in found.items()}


def _of_batch(attention: nn.Module, embeddings: Tensor, labels: Tensor, mask: Tensor | None) -> dict[str, float | None]:
    update: list[Tensor] = []
    output = getattr(attention, "project_output", None)
    hook = output.register_forward_hook(lambda *call: update.append(call[-1])) if output is not None else None
    transformed, weights = attention(embeddings, mask=mask, need_attention=True)
    if hook is not None:
        hook.remove()
    real = torch.ones(embeddings.shape[:-1], dtype=torch.bool) if mask is None else mask
    result: dict[str, float | None] = {
        "norm_h": float(embeddings[real].norm(dim=-1).mean()),
        "norm_transformed": float(transformed[real].norm(dim=-1).mean()),
    }
    if weights is not None:
        result["entropy"] = entropy_over_uniform(weights, mask)
        result["same_class"] = same_class_over_chance(weights, labels) if labels.ndim == 1 else None
    if update:
        # Tokens come first in a sequence, (L, B, C): positions are compared across samples.
        rows = update[0]
        result["common"] = common_share(rows.unsqueeze(0) if rows.ndim == 2 else rows, None if mask is None else mask.T)
    return result


def entropy_over_uniform(weights: Tensor, mask: Tensor | None = None) -> float:
    """Entropy of attention weights ``(heads, R, B)`` or ``(L, heads, R, B)`` over that of uniform weights."""
    entropy = torch.special.entr(weights.double()).sum(-1)
    if mask is None:
        return float(entropy.mean()) / math.log(weights.shape[-1])
    present = mask.T.sum(1)  # samples that have a token there
    kept = present > 1
    by_position = entropy.mean(1)[kept] / present[kept].log().unsqueeze(1)
    receives = mask.T[kept]
    return float(by_position.expand(receives.shape)[receives].mean())


def same_class_over_chance(weights: Tensor, labels: Tensor) -> float | None:
    """Weight on other samples of the receiver's class over its share among all others; 1 is chance.

    Args:
        weights: Shape ``(heads, R, B)``, where R is B or 1 (the same weights for all).
        labels: Class indices, shape ``(B,)``.

    Returns:
        The mean over receivers that have another sample of their class; None if none has.
    """
    size = len(labels)
    others = ~torch.eye(size, dtype=torch.bool)
    same = (labels[:, None] == labels) & others
    to_others = weights.double().mean(0).expand(size, size) * others
    share = (to_others * same).sum(1) / to_others.sum(1).clamp_min(1e-12)
    chance = same.sum(1) / (size - 1)
    return float((share[chance > 0] / chance[chance > 0]).mean()) if bool((chance > 0).any()) else None


def common_share(update: Tensor, mask: Tensor | None = None) -> float:
    """Squared length of the mean update over the mean squared length of updates; 1 if all rows receive the same.

    Args:
        update: Shape ``(G, B, C)``: each of G groups on its own (positions of a sequence).
        mask: Boolean, shape ``(G, B)``: rows that count.
    """
    if update.shape[1] == 1:
        return 1.0
    wide = update.double()
    real = torch.ones(wide.shape[:2], dtype=torch.bool) if mask is None else mask
    wide, count = wide * real.unsqueeze(-1), real.sum(1)
    kept = count > 1
    common = (wide.sum(1)[kept] / count[kept].unsqueeze(1)).square().sum(-1) * count[kept]
    return float(common.sum() / wide[kept].square().sum().clamp_min(1e-12))
