"""Text-only systems: BERT with a softmax or CRF over words, and the entity-marker model of relations used as MTB."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from reference_models.config import TextSystemConfig
from reference_models.encoders.concat import find_layers
from reference_models.encoders.text import TextEncoder
from reference_models.systems.base import Encoded, System
from reference_models.systems.registry import register


@dataclass
class BERTConfig(TextSystemConfig):
    """Settings of the text-only systems, in addition to the common ones.

    Args:
        post: Layer after the states of the words or of the entity pair: "linear" (Soares et al., ACL 2019),
            "layernorm" or "none".
        freeze: "plkmo" trains only the last layer of the text encoder, as a public implementation of MTB does; the
            embeddings of the markers then keep their random initial values.
    """

    post: Literal["none", "linear", "layernorm"] = "none"
    freeze: Literal["none", "plkmo"] = "none"


@register("bert")
class BERT(System):
    """A text encoder and a head. Images are read only in training, and only if the semantic loss is on."""

    config_class = BERTConfig
    settings: BERTConfig
    text_encoder: TextEncoder

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if self.settings.freeze == "plkmo":
            self.text_encoder.requires_grad_(False)
            find_layers(self.text_encoder.body, self.text_encoder.layers)[-1].requires_grad_(True)
        width = self.task.width(self.text_encoder.width)
        self.post: nn.Module = nn.Identity()
        if self.settings.post == "linear":
            self.post = nn.Linear(width, width)
        elif self.settings.post == "layernorm":
            self.post = nn.LayerNorm(width)
        self.finish(width)

    def encode(self, batch: Mapping[str, Tensor]) -> Encoded:
        """Return the states of the words, or of the entity pair; see `System`."""
        hidden = self.text_encoder(batch["input_ids"], batch["attention_mask"])
        h, mask = self.task.gather(hidden, batch, self.config)
        return Encoded(self.post(h), mask)
