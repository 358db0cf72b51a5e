"""Statistics of the attention of a trained arm: how well it tells samples apart, and how H* compares with H."""

from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attnmixup import SampleAttention
from attnmixup.diagnostics import attention_stats

if TYPE_CHECKING:
    from benchmarks.evidence.training import Head

NAMES = {
    "norm/originals": "norm_h",
    "norm/transformed": "norm_transformed",
    "attention/entropy": "entropy",
    "attention/common": "common",
    "attention/same_class": "same_class",
}


def diagnose(head: "Head", batches: Sequence[tuple[Any, Tensor, Tensor | None]]) -> dict[str, float | None]:
    """Return statistics of the attention, averaged over mini-batches of training rows, without dropout.

    Returns:
        The numbers of :meth:`attnmixup.AttnMixup.stats` under the names of the tables. A control without attention has
        only the norms. Empty for an arm that uses no row of H*.
    """
    if head.mixer is None or head.mixer.options.never_transforms(len(batches[0][1])):
        return {}
    head.eval()
    with torch.no_grad():
        numbers = [
            _of_batch(head.mixer.attention, head.embeddings(inputs), labels, mask) for inputs, labels, mask in batches
        ]
    found = {name: [number[name] for number in numbers if name in number] for name in NAMES}
    return {NAMES[name]: mean(values) for name, values in found.items() if values}


def _of_batch(attention: nn.Module, embeddings: Tensor, labels: Tensor, mask: Tensor | None) -> dict[str, float]:
    if isinstance(attention, SampleAttention):
        return attention_stats(attention, embeddings, labels, mask=mask)
    real = torch.ones(embeddings.shape[:-1], dtype=torch.bool) if mask is None else mask
    transformed, _ = attention(embeddings, mask=mask)
    norms = (rows[real].norm(dim=-1).mean().item() for rows in (embeddings, transformed))
    return dict(zip(("norm/originals", "norm/transformed"), norms, strict=True))
