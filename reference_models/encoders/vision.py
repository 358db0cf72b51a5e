"""Image backbones, which compute all requested views of images in one pass."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models.feature_extraction import create_feature_extractor
from transformers import ResNetConfig, ResNetModel

from reference_models.config import View
from reference_models.encoders.stages import Pooling, pool_stages
from reference_models.errors import UserError
from reference_models.names import unknown

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
BACKBONES = (*RESNETS, "mobilenet_v2", "tiny")
RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")
MOBILENET_STAGES = ("features.3", "features.6", "features.13", "features.18")
TINY_WIDTHS = (16, 32, 48, 64)
CLASSIFIERS = ("fc.", "classifier.")  # prefixes of the weights that only the logits need
CPU_PIECE = 8  # images per pass on a CPU without gradients; the maps of more images do not fit into its caches
GRID_SIDE = 7  # maximum number of cells per side of the grid view
# ImageNet statistics of torchvision's weights; `tiny`, trained from scratch, uses the same scaling.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VisionBackbone(nn.Module):
    """A randomly initialised ResNet or MobileNetV2 that returns features of its four stages.

    Args:
        name: One of `BACKBONES`.
        frozen: Compute no gradients and keep the batch statistics fixed.
        train_mode: Update the batch statistics of a frozen backbone in training.
        views: Views that `forward` returns. The classification layer exists only with "logits".
        pooling: How stages are pooled to cells, see `pool_stages`.

    Attributes:
        stage_widths: Channels of the four stages.
        widths: Features of each view.

    Raises:
        UserError: If the name is unknown, or the view is "logits" for `tiny`, which has none.
    """

    def __init__(
        self,
        name: str,
        *,
        frozen: bool = False,
        train_mode: bool = False,
        views: Iterable[View] = ("cells", "pooled"),
        pooling: Pooling = "whole",
    ) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise unknown("image backbone", name, BACKBONES)
        self.name, self.views, self.pooling = name, frozenset(views), pooling
        self.frozen, self.train_mode = frozen, train_mode
        if name == "tiny" and "logits" in self.views:
            raise UserError("the image backbone 'tiny' has no class logits; choose the pooled image signal")
        self.body: nn.Module
        if name == "tiny":
            config = ResNetConfig(
                embedding_size=16, hidden_sizes=TINY_WIDTHS, depths=(1, 1, 1, 1), layer_type="basic", num_channels=3
            )
            self.body = ResNetModel(config)
        else:
            mobile = name == "mobilenet_v2"
            nodes = list(MOBILENET_STAGES if mobile else RESNET_STAGES)
            if "logits" in self.views:
                nodes.append("classifier" if mobile else "fc")
            self.body = create_feature_extractor(getattr(torchvision_models, name)(weights=None), nodes)
        with torch.no_grad():
            stages, logits = self.eval()._stages(torch.zeros(2, 3, 64, 64))
        self.stage_widths = tuple(stage.shape[1] for stage in stages)
        self.widths: dict[View, int] = {"cells": sum(self.stage_widths), "grid": self.stage_widths[-1]}
        self.widths["pooled"] = self.stage_widths[-1]
        if logits is not None:
            self.widths["logits"] = logits.shape[1]
        self.train()
        if frozen:
            self.requires_grad_(False)

    def train(self, mode: bool = True) -> "VisionBackbone":
        """Set the mode; a frozen backbone stays in evaluation mode unless `train_mode` is set."""
        return super().train(mode and (self.train_mode or not self.frozen))

    def forward(self, pixels: Tensor, shown: Tensor | None = None) -> dict[View, Tensor]:
        """Compute the views of images.

        Args:
            pixels: (N, 3, height, width), uint8 RGB.
            shown: (N,), False for images that are replaced by zeros after scaling, that is, by the mean colour.

        Returns:
            The requested views: "cells" (N, 4, sum of the stages' channels), each stage pooled to 2 x 2, row by row;
            "grid" (N, R, D), the last stage, pooled to 7 x 7 if it is larger; "pooled" (N, D), the mean of the last
            stage; "logits" (N, 1000).
        """
        # Batch statistics need several images; for a single image the running statistics are used.
        self.body.train(self.training and len(pixels) > 1)
        mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (MEAN, STD))
        scaled = (pixels / 255 - mean) / std
        if shown is not None:
            scaled = scaled.masked_fill(~shown[:, None, None, None], 0.0)
        scaled = scaled.to(next(self.body.parameters()).dtype, memory_format=torch.channels_last)
        stages, logits = self._in_pieces(scaled)
        views: dict[View, Tensor] = {}
        if "cells" in self.views:
            views["cells"] = torch.cat(pool_stages(stages, self.pooling), dim=-1)
        if "grid" in self.views:
            last = stages[-1]
            if max(last.shape[2:]) > GRID_SIDE:
                last = F.adaptive_avg_pool2d(last, GRID_SIDE)
            views["grid"] = last.flatten(2).transpose(1, 2)
        if "pooled" in self.views:
            views["pooled"] = stages[-1].mean(dim=(2, 3))
        if logits is not None:
            views["logits"] = logits
        return views

    def _in_pieces(self, scaled: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Call `_stages` on a few images at a time if that is faster and images do not depend on each other."""
        if not self.frozen or self.training or scaled.device.type != "cpu" or len(scaled) <= CPU_PIECE:
            return self._stages(scaled)
        stages, logits = zip(*map(self._stages, scaled.split(CPU_PIECE)), strict=True)
        joined = tuple(torch.cat(stage) for stage in zip(*stages, strict=True))
        return joined, torch.cat(logits) if "logits" in self.views else None

    def _stages(self, scaled: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Compute the maps of the four stages, and the logits if they are requested."""
        if isinstance(self.body, ResNetModel):
            return self.body(scaled, output_hidden_states=True).hidden_states[1:], None
        outputs = tuple(self.body(scaled).values())
        return (outputs[:-1], outputs[-1]) if "logits" in self.views else (outputs, None)
