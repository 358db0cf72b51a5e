"""Image backbones: one pass over pictures gives the cells of the four stages and the image embedding."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models.feature_extraction import create_feature_extractor
from transformers import ResNetConfig, ResNetModel

from reference_models.encoders.stages import pool_stages
from reference_models.errors import UserError

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
ImageSignal = Literal["pooled", "logits"]
BACKBONES = (*RESNETS, "mobilenet_v2", "tiny")
RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")
MOBILENET_STAGES = ("features.3", "features.6", "features.13", "features.18")
TINY_WIDTHS = (16, 32, 48, 64)
# ImageNet statistics of torchvision's weights; `tiny` learns from scratch and takes the same scaling.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class VisualFeatures:
    """Features of N pictures: `cells` (N, P, channels) of the four stages, and `embedding` (N, D)."""

    cells: tuple[Tensor, ...]
    embedding: Tensor


class VisionBackbone(nn.Module):
    """A ResNet or MobileNetV2, randomly initialised, read at its four stages.

    Args:
        name: one of `BACKBONES`.
        frozen: no gradients, and batch statistics that never move.
        signal: the image embedding: the "pooled" last stage, or the "logits" of the 1000 classes of ImageNet.

    Attributes:
        stage_widths: channels of the four stages.
        embedding_width: D of the image embedding.

    Raises:
        UserError: an unknown name, or class logits of `tiny`, which has none.
    """

    def __init__(self, name: str, *, frozen: bool = False, signal: ImageSignal = "pooled") -> None:
        super().__init__()
        if name not in BACKBONES:
            raise UserError(f"unknown image backbone {name!r}; choose one of {', '.join(BACKBONES)}")
        if name == "tiny" and signal == "logits":
            raise UserError("the image backbone 'tiny' has no class logits; choose the pooled image signal")
        self.name, self.frozen, self.signal = name, frozen, signal
        self.body: nn.Module
        if name == "tiny":
            config = ResNetConfig(
                embedding_size=16, hidden_sizes=TINY_WIDTHS, depths=(1, 1, 1, 1), layer_type="basic", num_channels=3
            )
            self.body = ResNetModel(config)
        else:
            mobile = name == "mobilenet_v2"
            nodes = list(MOBILENET_STAGES if mobile else RESNET_STAGES)
            if signal == "logits":
                nodes.append("classifier" if mobile else "fc")
            self.body = create_feature_extractor(getattr(torchvision_models, name)(weights=None), nodes)
        with torch.no_grad():
            features = self.eval()(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
        self.stage_widths = tuple(cells.shape[2] for cells in features.cells)
        self.embedding_width = features.embedding.shape[1]
        self.train()
        if frozen:
            self.requires_grad_(False)

    def train(self, mode: bool = True) -> "VisionBackbone":
        """Switch the mode; a frozen backbone stays in evaluation mode, so that its batch statistics do not drift."""
        return super().train(mode and not self.frozen)

    def forward(self, pixels: Tensor, shown: Tensor | None = None) -> VisualFeatures:
        """Features of pictures.

        Args:
            pixels: (N, 3, height, width), uint8 RGB.
            shown: (N,), False for a picture to be read as zeros after the scaling, which is the mean colour.
        """
        # Batch statistics need several pictures: with fewer, the running ones serve.
        self.body.train(self.training and len(pixels) > 1)
        mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (MEAN, STD))
        scaled = (pixels / 255 - mean) / std
        if shown is not None:
            scaled = scaled.masked_fill(~shown[:, None, None, None], 0.0)
        scaled = scaled.to(next(self.body.parameters()).dtype, memory_format=torch.channels_last)
        if isinstance(self.body, ResNetModel):
            stages = self.body(scaled, output_hidden_states=True).hidden_states[1:]
            return VisualFeatures(pool_stages(stages), stages[-1].mean(dim=(2, 3)))
        *stages, last = self.body(scaled).values()
        if self.signal == "logits":
            return VisualFeatures(pool_stages(stages), last)
        return VisualFeatures(pool_stages((*stages, last)), last.mean(dim=(2, 3)))
