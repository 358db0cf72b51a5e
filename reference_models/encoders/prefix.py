"""Visual prefix (Eq. 3-4): images become extra tokens of every text layer."""

from dataclasses import dataclass
from typing import Literal

from einops import rearrange
from torch import Tensor, nn

from reference_models.encoders.stages import GRID, GatedConvolutions, GatedPerceptron

Reading = Literal["paper", "release"]
Fusion = Literal["prefix", "concat"]


@dataclass(frozen=True)
class Prefix:
    """Keys and values (layers, B, heads, P, head width) of P prefix tokens and their mask (B, P), True = attended."""

    keys: Tensor
    values: Tensor
    mask: Tensor


@dataclass(frozen=True)
class PrefixStates:
    """Hidden states (layers, B, P, C) of P prefix tokens and their mask (B, P), True = attended."""

    states: Tensor
    mask: Tensor


class VisualPrefix(nn.Module):
    """Maps the pooled stages of images to a prefix for each text layer.

    Args:
        stage_widths: Channels of the stages.
        layers, heads, width: Depth, attention heads and hidden width C of the text encoder.
        reading: How the stages become tokens: "paper" uses `GatedConvolutions`, "release" uses `GatedPerceptron`.
        fusion: "prefix" makes keys and values, "concat" makes hidden states.
        scramble_cells: Use the reshape of the published code, which makes tokens from blocks of channels instead of
            cells.
        scramble_heads: Use the reshape of the published code, which splits keys and values into heads without
            transposing, so that a head gets slices of all heads' features. This also mixes tokens, so single tokens
            cannot be masked: either all images of a sample are seen, or none.
    """

    def __init__(
        self,
        stage_widths: tuple[int, ...],
        *,
        layers: int,
        heads: int,
        width: int,
        reading: Reading = "paper",
        fusion: Fusion = "prefix",
        scramble_cells: bool = False,
        scramble_heads: bool = False,
    ) -> None:
        super().__init__()
        self.stage_widths, self.heads, self.fusion = stage_widths, heads, fusion
        self.scramble_cells, self.scramble_heads = scramble_cells, scramble_heads
        mixer = GatedPerceptron if reading == "release" else GatedConvolutions
        self.mixer = mixer(stage_widths, layers, 2 * width if fusion == "prefix" else width)

    def forward(self, cells: Tensor, seen: Tensor) -> Prefix | PrefixStates:
        """Make the prefix of a batch.

        Args:
            cells: (M, GRID * GRID, sum of the stages' channels) of the M images in `seen`, in the same order.
            seen: (B, images), True for these M images; all others are masked out.

        Returns:
            A `Prefix` with 4 tokens per image, or `PrefixStates` for the fusion "concat".
        """
        if self.scramble_cells:
            cells = cells.transpose(1, 2).reshape(cells.shape)
        tokens = self.mixer([stage.contiguous() for stage in cells.split(self.stage_widths, dim=-1)])
        packed = tokens.new_zeros(*seen.shape, tokens.shape[0], *tokens.shape[2:])
        packed[seen] = rearrange(tokens, "l m p f -> m l p f")
        rows = rearrange(packed, "b n l p f -> l b (n p) f")
        mask = seen.repeat_interleave(GRID * GRID, dim=1)
        if self.fusion == "concat":
            return PrefixStates(rows, mask)
        keys, values = (self._divide(half) for half in rows.chunk(2, dim=-1))
        return Prefix(keys, values, mask)

    def _divide(self, rows: Tensor) -> Tensor:
        if self.scramble_heads:
            return rows.reshape(*rows.shape[:2], self.heads, rows.shape[2], -1)
        return rearrange(rows, "l b p (h d) -> l b h p d", h=self.heads)
