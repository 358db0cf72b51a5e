"""Image backbones: one pass over all pictures of a batch gives the four stages and the pooled last stage."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models.feature_extraction import create_feature_extractor
from transformers import ResNetConfig, ResNetModel

from reference_models.errors import UserError

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
BACKBONES = (*RESNETS, "mobilenet_v2", "tiny")
MOBILENET_STAGES = ("features.3", "features.6", "features.13", "features.18")
TINY_WIDTHS = (16, 32, 48, 64)
# ImageNet statistics of torchvision's weights; `tiny` learns from scratch and takes the same scaling.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class VisualFeatures:
    """Features of N pictures: `stages`, four maps (N, width, height, width in pixels), and `pooled` (N, D)."""

    stages: tuple[Tensor, ...]
    pooled: Tensor


class VisionBackbone(nn.Module):
    """A ResNet or MobileNetV2, randomly initialised, read at its four stages.

    Args:
        name: one of `BACKBONES`.
        frozen: no gradients, and batch statistics that never move.

    Attributes:
        stage_widths: channels of the four stages; the last is the width of the pooled vector.
    """

    def __init__(self, name: str, *, frozen: bool = False) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise UserError(f"unknown image backbone {name!r}; choose one of {', '.join(BACKBONES)}")
        self.frozen = frozen
        self.body: nn.Module
        if name == "tiny":
            config = ResNetConfig(
                embedding_size=16, hidden_sizes=TINY_WIDTHS, depths=(1, 1, 1, 1), layer_type="basic", num_channels=3
            )
            self.body = ResNetModel(config)
        else:
            stages = MOBILENET_STAGES if name == "mobilenet_v2" else ("layer1", "layer2", "layer3", "layer4")
            self.body = create_feature_extractor(getattr(torchvision_models, name)(weights=None), list(stages))
        with torch.no_grad():
            self.stage_widths = tuple(stage.shape[1] for stage in self.eval()._run(torch.zeros(1, 3, 64, 64)))
        self.train()
        if frozen:
            self.requires_grad_(False)

    def train(self, mode: bool = True) -> "VisionBackbone":
        """Switch the mode; a frozen backbone stays in evaluation mode, so that its batch statistics do not drift."""
        return super().train(mode and not self.frozen)

    def forward(self, pixels: Tensor) -> VisualFeatures:
        """Features of `pixels` (N, 3, height, width), uint8 RGB."""
        mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (MEAN, STD))
        normalised = ((pixels / 255 - mean) / std).to(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            stages = self._run(normalised)
        return VisualFeatures(stages, stages[-1].mean(dim=(2, 3)))

    def _run(self, normalised: Tensor) -> tuple[Tensor, ...]:
        if isinstance(self.body, ResNetModel):
            return tuple(self.body(normalised, output_hidden_states=True).hidden_states[1:])
        return tuple(self.body(normalised).values())
