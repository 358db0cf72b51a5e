"""HVPNeT (Chen et al., Findings of NAACL 2022): backbone stages of the images as a prefix of every text layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from reference_models.config import Inputs, Slots, TextSystemConfig
from reference_models.encoders.attention import Implementation
from reference_models.encoders.prefix import Fusion, Reading, VisualPrefix
from reference_models.encoders.text import TextEncoder
from reference_models.encoders.vision import VisionBackbone
from reference_models.systems.base import Encoded, System
from reference_models.systems.registry import register


@dataclass
class HVPNeTConfig(TextSystemConfig):
    """Settings of HVPNeT, in addition to the common ones.

    Args:
        prefix: How images become tokens: "release" (the whole image and its crops; an MLP over all stages, as
            published) or "paper" (only the crops; a 1 x 1 convolution and a gate per stage, as in I2SRM's Eq. 3).
        fusion: Visual tokens are keys and values of each text layer ("prefix"), or hidden states before those of the
            text ("concat").
        attention: "sdpa" (fused kernels) or "eager" (step by step).
        scramble_cells, scramble_heads: Use the reshapes of the published code, see `VisualPrefix`.
        attend_absent: Attend to absent images of samples that have another image, as zeros, as the published code does.
        shift_positions: Start the positions of the text after those of the visual tokens, as in published code.
        train_head: False keeps the random initial weights of the head, as the published code does for relations.
    """

    freeze_image_backbone: bool = True
    pair: Literal["mean", "marker"] = "marker"
    prefix: Reading = "release"
    fusion: Fusion = "prefix"
    attention: Implementation = "sdpa"
    scramble_cells: bool = False
    scramble_heads: bool = False
    attend_absent: bool = False
    shift_positions: bool = False
    train_head: bool = True

    @property
    def inputs(self) -> Inputs:
        """See `SystemConfig`."""
        return Inputs(images={"cells": "crops" if self.prefix == "paper" else "all"})


@register("hvpnet")
class HVPNeT(System):
    """A text encoder whose layers attend to a visual prefix."""

    config_class = HVPNeTConfig
    settings: HVPNeTConfig
    text_encoder: TextEncoder
    vision: VisionBackbone

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        settings, text = self.settings, self.text_encoder
        self.prefix = VisualPrefix(
            self.vision.stage_widths,
            layers=text.layers,
            heads=text.heads,
            width=text.width,
            reading=settings.prefix,
            fusion=settings.fusion,
            scramble_cells=settings.scramble_cells,
            scramble_heads=settings.scramble_heads,
        )
        self.finish(self.task.width(text.width))
        self.head.requires_grad_(settings.train_head)

    def make_text_encoder(self) -> TextEncoder:
        """See `System`."""
        return TextEncoder(self.config.text_config, attention=self.settings.attention, fusion=self.settings.fusion)

    @property
    def prefix_images(self) -> Slots | None:
        """See `System`; None with scrambled heads, which mix the tokens of all images."""
        settings = self.settings
        if settings.fusion != "prefix" or settings.scramble_heads:
            return None
        slots: Slots = settings.inputs.images["cells"]
        return slots

    def encode(self, batch: Mapping[str, Tensor]) -> Encoded:
        """Encode the text with the images as a prefix; see `System`."""
        features = self.image_features(batch, attend_absent=self.settings.attend_absent)
        prefix = self.prefix(features.rows["cells"], features.seen["cells"])
        shift = prefix.mask.shape[1] if self.settings.shift_positions else 0
        hidden = self.text_encoder(batch["input_ids"], batch["attention_mask"], prefix, shift=shift)
        return Encoded(*self.task.gather(hidden, batch, self.config), *self.semantic_image(batch, features))
