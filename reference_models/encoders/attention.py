"""Attention with a visual prefix for transformers, in two equivalent implementations."""

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from reference_models.encoders.dropout import FastDropout
from reference_models.encoders.prefix import Prefix

Implementation = Literal["sdpa", "eager"]
NAMES: dict[Implementation, str] = {"sdpa": "visual_prefix_sdpa", "eager": "visual_prefix_eager"}


def prepend(
    layer: int, key: Tensor, value: Tensor, mask: Tensor | None, length: int, prefix: Prefix
) -> tuple[Tensor, Tensor, Tensor]:
    """Prepend the prefix to the keys, values and mask of a text layer.

    Args:
        layer: Index of the text layer.
        key, value: Keys and values of the text, (B, heads, L, head width).
        mask: Boolean mask (B, 1, queries, L), or None if the text attends to all of its tokens.
        length: Number of queries.
        prefix: Prefix of all layers.

    Returns:
        Keys and values (B, heads, P + L, head width) and the mask (B, 1, queries, P + L).
    """
    text = key.new_ones(1, dtype=torch.bool) if mask is None else mask
    text = text.expand(key.shape[0], 1, length, key.shape[2])
    joined = torch.cat([prefix.mask[:, None, None, :].expand(-1, -1, length, -1), text], dim=-1)
    key = torch.cat([prefix.keys[layer].to(key.dtype), key], dim=2)
    return key, torch.cat([prefix.values[layer].to(value.dtype), value], dim=2), joined


class AttentionLayer(Protocol):
    """The attributes of a transformers attention layer that we read, in addition to an optional `dropout`.

    Attributes:
        layer_idx: Index of the text layer.
        training: Whether the layer is in training mode.
    """

    layer_idx: int
    training: bool


def fast_dropout(module: AttentionLayer) -> FastDropout | None:
    """Return the dropout of an attention layer if it is a `FastDropout`, else None."""
    dropout = getattr(module, "dropout", None)
    return dropout if isinstance(dropout, FastDropout) else None


def sdpa_attention(
    module: AttentionLayer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    prefix: Prefix | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Compute attention with PyTorch's fused kernels, in the interface of transformers.

    The fused CPU kernels have no dropout, so PyTorch falls back to unfused steps. With `FastDropout` we use
    `eager_attention` there, which is faster.

    Returns:
        The output (B, queries, heads, head width), and None instead of weights.
    """
    if dropout > 0 and query.device.type == "cpu" and fast_dropout(module) is not None:
        output, _ignored = eager_attention(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, prefix=prefix
        )
        return output, None
    if prefix is not None:
        key, value, attention_mask = prepend(module.layer_idx, key, value, attention_mask, query.shape[2], prefix)
    output = F.scaled_dot_product_attention(query, key, value, attention_mask, dropout_p=dropout, scale=scaling)
    return output.transpose(1, 2).contiguous(), None


def eager_attention(
    module: AttentionLayer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    prefix: Prefix | None = None,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """Compute attention step by step, in the interface of transformers.

    Returns:
        The output (B, queries, heads, head width) and the weights (B, heads, queries, P + L).
    """
    if prefix is not None:
        key, value, attention_mask = prepend(module.layer_idx, key, value, attention_mask, query.shape[2], prefix)
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1)
    fast = fast_dropout(module)
    weights = F.dropout(weights, dropout, module.training) if fast is None else fast(weights)
    return (weights @ value).transpose(1, 2).contiguous(), weights


for _name, _function in ((NAMES["sdpa"], sdpa_attention), (NAMES["eager"], eager_attention)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, sdpa_mask)  # boolean masks; without this, padding would be attended to
