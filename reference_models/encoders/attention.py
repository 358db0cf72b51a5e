"""Attention with a visual prefix, registered with transformers, in two implementations that agree."""

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
    """Begin a layer's keys and values (B, heads, L, head width) and its mask with the prefix.

    Args:
        layer: number of the text layer.
        key, value: of the text.
        mask: boolean (B, 1, queries, L), or None where the text attends to all of itself.
        length: number of queries.
        prefix: of all layers.

    Returns:
        Keys and values (B, heads, P + L, head width) and the mask (B, 1, queries, P + L).
    """
    text = key.new_ones(1, dtype=torch.bool) if mask is None else mask
    text = text.expand(key.shape[0], 1, length, key.shape[2])
    joined = torch.cat([prefix.mask[:, None, None, :].expand(-1, -1, length, -1), text], dim=-1)
    key = torch.cat([prefix.keys[layer].to(key.dtype), key], dim=2)
    return key, torch.cat([prefix.values[layer].to(value.dtype), value], dim=2), joined


class AttentionLayer(Protocol):
    """What is read of an attention layer of transformers, beside its `dropout` if it has one.

    Attributes:
        layer_idx: number of the text layer.
        training: whether the layer is in training mode.
    """

    layer_idx: int
    training: bool


def fast_dropout(module: AttentionLayer) -> FastDropout | None:
    """The dropout of an attention layer if it was replaced, see `encoders.dropout`."""
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
    """Attention by PyTorch's fused kernels, as transformers calls it; returns (B, queries, heads, head width).

    On a CPU they have no dropout, and PyTorch goes step by step; so do we where that is faster.
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
    """The same, step by step; returns the weights (B, heads, queries, P + L) too."""
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
    AttentionMaskInterface.register(_name, sdpa_mask)  # boolean masks for both; without it padding would be attended to
