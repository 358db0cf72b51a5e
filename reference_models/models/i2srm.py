"""I2SRM: object crops as a visual prefix of the text encoder, then AttnMixup and the semantic loss."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from attnmixup.functional import masked_mean
from reference_models.models.base import Extractor, Fused
from reference_models.models.configuration import I2SRMConfig
from reference_models.models.prefix import Prefix, PrefixStates, VisualPrefix
from reference_models.models.text import TextEncoder
from reference_models.models.vision import VisionBackbone


class I2SRM(Extractor):
    """The paper's system; with `config.vision=None` its text-only form (BERT-CRF, or BERT with a pair classifier)."""

    def __init__(self, config: I2SRMConfig) -> None:
        super().__init__(config)
        fusion = None if config.vision is None else config.fusion
        self.text = TextEncoder(config.text_config, attention=config.attention, fusion=fusion)
        width = self.text.width if config.task == "ner" else 2 * self.text.width
        if config.vision is None:
            self.finish(width, None)
            return
        semantic = config.semantic_weight > 0  # without it, class logits would be parameters that never learn
        self.vision = VisionBackbone(
            config.vision, frozen=config.freeze_image_backbone, signal=config.image_signal if semantic else "pooled"
        )
        self.prefix = VisualPrefix(
            self.vision.stage_widths,
            layers=self.text.layers,
            heads=self.text.heads,
            width=self.text.width,
            reading=config.prefix,
            fusion=config.fusion,
        )
        self.finish(width, self.vision.embedding_width)

    def fuse(self, batch: Mapping[str, Tensor]) -> Fused:
        """Encode the text with the pictures as prefix; words for tagging, the marked pair for relations."""
        prefix = image = has_image = None
        if self.config.vision is not None:
            prefix, image, has_image = self._look(batch["pixel_values"], batch["image_mask"])
        hidden = self.text(batch["input_ids"], batch["attention_mask"], prefix)
        if self.config.task == "ner":
            words = hidden.gather(1, batch["word_starts"][..., None].expand(-1, -1, hidden.shape[2]))
            return Fused(words, batch["word_mask"], image, has_image)
        entities = [masked_mean(hidden, batch[name]) for name in ("head_mask", "tail_mask")]
        return Fused(torch.cat(entities, dim=-1), None, image, has_image)

    def _look(self, pixels: Tensor, present: Tensor) -> tuple[Prefix | PrefixStates, Tensor, Tensor]:
        """One backbone pass over what is needed: the prefix, and the embedding of each whole picture (slot 0)."""
        seen = present
        if self.config.prefix == "release":  # absent crops of a sample with a picture are zero images, attended to
            seen = present.any(dim=1, keepdim=True).expand_as(present)
        if not (self.training and self.semantic is not None):
            seen = seen & (torch.arange(seen.shape[1], device=seen.device) >= self.prefix.first)
        features = self.vision(pixels[seen], present[seen])
        embeddings = features.embedding.new_zeros(*seen.shape, features.embedding.shape[1])
        embeddings[seen] = features.embedding
        return self.prefix(features.stages, seen), embeddings[:, 0], (seen & present)[:, 0]


AutoConfig.register(I2SRMConfig.model_type, I2SRMConfig)
AutoModel.register(I2SRMConfig, I2SRM)
