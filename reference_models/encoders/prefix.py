"""The visual prefix (Eq. 3-4): pictures become extra tokens of every text layer."""

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
    """Turns the pooled stages of a batch's pictures into a prefix for each text layer.

    Args:
        stage_widths: channels of the stages.
        layers, heads, width: depth, attention heads and hidden width C of the text encoder.
        reading: "paper" makes tokens of the crops by `GatedConvolutions`. "release" makes them of the whole picture
            too, by `GatedPerceptron`, and divides keys and values among the heads without transposing, so that a head
            sees slices of all heads' features (kept so that its numbers can be compared).
        fusion: "prefix" makes keys and values, "concat" hidden states.

    Attributes:
        first: the first slot of a sample's pictures that becomes tokens; slot 0 is the whole picture.
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
    ) -> None:
        super().__init__()
        self.heads, self.fusion = heads, fusion
        self.scrambled = reading == "release"
        self.first = 0 if reading == "release" else 1
        mixer = GatedPerceptron if reading == "release" else GatedConvolutions
        self.mixer = mixer(stage_widths, layers, 2 * width if fusion == "prefix" else width)

    def forward(self, cells: tuple[Tensor, ...], seen: Tensor) -> Prefix | PrefixStates:
        """Prefix of a batch.

        Args:
            cells: (M, GRID * GRID, channels) of each stage, of the M pictures that were looked at, in the order of
                `seen`.
            seen: (B, 1 + crops), True for those M; the others are masked out. The scrambled heads of the release cannot
                be masked by token: there a sample's pictures are all seen, or none.
        """
        wanted = seen.nonzero()[:, 1] >= self.first
        slots = seen[:, self.first :]
        tokens = self.mixer([stage[wanted] for stage in cells])
        packed = tokens.new_zeros(*slots.shape, tokens.shape[0], *tokens.shape[2:])
        packed[slots] = rearrange(tokens, "l m p f -> m l p f")
        rows = rearrange(packed, "b n l p f -> l b (n p) f")
        mask = slots.repeat_interleave(GRID * GRID, dim=1)
        if self.fusion == "concat":
            return PrefixStates(rows, mask)
        keys, values = (self._divide(half) for half in rows.chunk(2, dim=-1))
        return Prefix(keys, values, mask)

    def _divide(self, rows: Tensor) -> Tensor:
        if self.scrambled:
            return rows.reshape(*rows.shape[:2], self.heads, rows.shape[2], -1)
        return rearrange(rows, "l b p (h d) -> l b h p d", h=self.heads)
