"""Eq. 3 in two readings: the four backbone stages, pooled to a few cells, become features for each text layer."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from reference_models.errors import UserError

Pooling = Literal["whole", "floor"]

GRID = 2  # each image gives GRID x GRID prefix tokens


def pool_stages(stages: Sequence[Tensor], pooling: Pooling = "whole") -> tuple[Tensor, ...]:
    """Average-pool maps (M, channels, height, width) to cells (M, GRID * GRID, channels), row by row.

    Args:
        stages: The maps.
        pooling: "whole": cells cover the whole map and overlap if its size is odd. "floor": cells have half the height
            and width, rounded down, as in published code, so the last row and column of an odd map are left out.

    Returns:
        The cells of each map.

    Raises:
        UserError: If a map is smaller than GRID x GRID and `pooling` is "floor".
    """
    if pooling == "floor":
        if min(min(stage.shape[2:]) for stage in stages) < GRID:
            raise UserError(
                "model.stage_pooling=floor needs larger images: the last stage has a single cell; "
                "set data.image_size to 64"
            )
        grids = [F.avg_pool2d(stage, (stage.shape[2] // GRID, stage.shape[3] // GRID)) for stage in stages]
    else:
        grids = [F.adaptive_avg_pool2d(stage, GRID) for stage in stages]
    return tuple(rearrange(grid[..., :GRID, :GRID], "m c y x -> m (y x) c") for grid in grids)


class GatedConvolutions(nn.Module):
    """The paper's Eq. 3: r^(l) = sum_s g_ls Conv1x1_s(AvgPool(stage_s)), g_l = softmax of a learned gate over stages.

    On pooled cells, a 1 x 1 convolution is a linear map of the channels.

    Args:
        stage_widths: Channels of the stages.
        layers: Depth of the text encoder.
        features: Features of each token.
    """

    def __init__(self, stage_widths: tuple[int, ...], layers: int, features: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(channels, features) for channels in stage_widths)
        self.gates = nn.Parameter(torch.zeros(layers, len(stage_widths)))

    def forward(self, cells: Sequence[Tensor]) -> Tensor:
        """Map pooled stages (M, P, channels) to tokens (layers, M, P, features)."""
        levels = torch.stack([project(x) for project, x in zip(self.projections, cells, strict=True)])
        return torch.einsum("ls,smpf->lmpf", self.gates.softmax(dim=-1), levels)


class GatedPerceptron(nn.Module):
    """The published code's Eq. 3: a two-layer tanh MLP over all stages, and gates that depend on the image.

    The MLP makes as many shares as there are stages. For layer l, the gates softmax(leaky_relu(W_l u)) mix the shares,
    where u is the mean of the shares, with all tokens of the image concatenated.

    Args:
        stage_widths, layers, features: As in `GatedConvolutions`.
        hidden: Hidden width of the MLP.
    """

    def __init__(self, stage_widths: tuple[int, ...], layers: int, features: int, hidden: int = 800) -> None:
        super().__init__()
        self.layers, self.shares = layers, len(stage_widths)
        self.perceptron = nn.Sequential(
            nn.Linear(sum(stage_widths), hidden), nn.Tanh(), nn.Linear(hidden, self.shares * features)
        )
        self.gates = nn.Linear(GRID * GRID * features, layers * self.shares)

    def forward(self, cells: Sequence[Tensor]) -> Tensor:
        """Map pooled stages (M, P, channels) to tokens (layers, M, P, features)."""
        shares = rearrange(self.perceptron(torch.cat(tuple(cells), dim=-1)), "m p (s f) -> s m p f", s=self.shares)
        scores = F.leaky_relu(self.gates(shares.mean(dim=0).flatten(1)))
        gates = rearrange(scores, "m (l s) -> l s m", l=self.layers).softmax(dim=1)
        return torch.einsum("lsm,smpf->lmpf", gates, shares)
