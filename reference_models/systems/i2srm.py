"""I2SRM: object crops as a visual prefix of the text encoder, then AttnMixup and the semantic loss."""

from dataclasses import dataclass
from typing import Any, Literal

from reference_models.encoders.prefix import Reading
from reference_models.systems.hvpnet import HVPNeT, HVPNeTConfig
from reference_models.systems.registry import register

# Intended behaviour of the code published with the paper, as in configs/systems/i2srm-release.yaml.
RELEASE: dict[str, Any] = {
    "prefix": "release",
    "scramble_cells": True,
    "scramble_heads": True,
    "shift_positions": True,
    "stage_pooling": "floor",
    "head_dropout": 0.0,
    "attend_absent": True,
    "image_signal": "logits",
    "semantic": {"project": "image"},
    "mixup": {"preset": "release"},
}


@dataclass
class I2SRMConfig(HVPNeTConfig):
    """Settings of I2SRM: those of HVPNeT with the paper's Eq. 3, AttnMixup and the semantic loss as defaults."""

    freeze_image_backbone: bool = False
    pair: Literal["mean", "marker"] = "mean"
    prefix: Reading = "paper"
    semantic_weight: float = 0.5
    attn_mixup: bool = True


@register("i2srm")
class I2SRM(HVPNeT):
    """The paper's system: HVPNeT with AttnMixup and the semantic loss, which the base class applies."""

    config_class = I2SRMConfig
    settings: I2SRMConfig
