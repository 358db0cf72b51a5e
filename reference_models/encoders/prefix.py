"""The visual prefix (Eq. 3-4): images become extra tokens of every text layer."""

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
    """Turns the pooled stages of a batch's images into a prefix for each text layer.

    Args:
        stage_widths: channels of the stages.
        layers, heads, width: depth, attention heads and hidden width C of the text encoder.
        reading: how the stages become tokens: "paper" by `GatedConvolutions`, "release" by `GatedPerceptron`.
        fusion: "prefix" makes keys and values, "concat" hidden states.
        scramble_cells: the published reshape, which makes tokens of blocks of channels instead of cells.
        scramble_heads: the published reshape, which divides keys and values among the heads without transposing, so
            that a head sees slices of all heads' features. It also mixes tokens, so that they cannot be masked one by
            one: of a sample all images are seen, or none.
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
        """Prefix of a batch.

        Args:
            cells: (M, GRID * GRID, sum of the stages' channels) of the M images that are seen, in the order of `seen`.
            seen: (B, images), True for those M; the others are masked out.

        Returns:
            A `Prefix` of 4 tokens for each image, or `PrefixStates` for the fusion "concat".
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
