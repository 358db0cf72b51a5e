"""The visual prefix (Eq. 3-4): crops become extra keys and values of every text layer."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "visual_prefix"
GRID = 2  # each picture gives GRID x GRID prefix tokens


@dataclass(frozen=True)
class Prefix:
    """Keys and values (layers, B, heads, P, head width) of P prefix tokens and their mask (B, P), True = attended."""

    keys: Tensor
    values: Tensor
    mask: Tensor


class VisualPrefix(nn.Module):
    """Turns the stages of a picture into keys and values for each text layer.

    r^(l) = sum_s g_ls Conv1x1_s(AvgPool_2x2(stage_s)), with g_l = softmax of a learned gate over the four stages (Eq. 3).
    The convolution's width is twice the text's: its halves are the keys and the values, divided among the heads.

    Args:
        stage_widths: channels of the stages.
        layers, heads, width: depth, attention heads and hidden width of the text encoder.
    """

    def __init__(self, stage_widths: tuple[int, ...], *, layers: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.projections = nn.ModuleList(nn.Conv2d(channels, 2 * width, kernel_size=1) for channels in stage_widths)
        self.gates = nn.Parameter(torch.zeros(layers, len(stage_widths)))

    def forward(self, stages: tuple[Tensor, ...], present: Tensor) -> Prefix:
        """Prefix of a batch.

        Args:
            stages: features of the M pictures that exist, in the order of `present`.
            present: (B, crops), True where a sample has a picture; M of them are True.
        """
        pooled = [F.adaptive_avg_pool2d(stage, GRID) for stage in stages]
        levels = torch.stack([project(x) for project, x in zip(self.projections, pooled, strict=True)])
        mixed = torch.einsum("l s, s m c y x -> m l y x c", self.gates.softmax(dim=-1).to(levels.dtype), levels)
        packed = mixed.new_zeros(*present.shape, *mixed.shape[1:])
        packed[present] = mixed
        keys, values = rearrange(
            packed, "b n l y x (two heads d) -> two l b heads (n y x) d", two=2, heads=self.heads
        ).unbind(0)
        return Prefix(keys, values, present.repeat_interleave(GRID * GRID, dim=1))


def prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    prefix: Prefix | None = None,
    is_causal: bool | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention whose keys and values begin with the layer's prefix, if one is given.

    The mask is boolean (B, 1, queries, keys) or None, as transformers makes it for SDPA.
    """
    if prefix is not None:
        batch, _, length, _ = query.shape
        text = query.new_ones(1, dtype=torch.bool) if attention_mask is None else attention_mask
        attention_mask = torch.cat(
            [prefix.mask[:, None, None, :].expand(-1, -1, length, -1), text.expand(batch, 1, length, key.shape[2])], dim=-1
        )
        key = torch.cat([prefix.keys[module.layer_idx].to(key.dtype), key], dim=2)
        value = torch.cat([prefix.values[module.layer_idx].to(value.dtype), value], dim=2)
    output: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, is_causal=False, **kwargs
    )
    return output


AttentionInterface.register(ATTENTION, prefix_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
