"""I2SRM: object crops as a visual prefix of the text encoder, then AttnMixup and the semantic loss."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from reference_models.encoders.prefix import Prefix, PrefixStates, VisualPrefix
from reference_models.encoders.text import TextEncoder
from reference_models.encoders.vision import VisionBackbone, VisualFeatures
from reference_models.systems.base import Extractor, Fused
from reference_models.systems.configuration import I2SRMConfig
from reference_models.tasks import get_task


class I2SRM(Extractor):
    """The paper's system; with `config.vision=None` its text-only form (BERT-CRF, or BERT with a pair classifier)."""

    def __init__(self, config: I2SRMConfig) -> None:
        super().__init__(config)
        fusion = None if config.vision is None else config.fusion
        self.text = TextEncoder(config.text_config, attention=config.attention, fusion=fusion)
        self.task = get_task(config.task)
        width = self.task.width(self.text.width)
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
        """Encode the text with the pictures as prefix, and take from it what the task scores."""
        prefix = image = has_image = None
        if self.config.vision is not None:
            prefix, image, has_image = self._look(batch)
        hidden = self.text(batch["input_ids"], batch["attention_mask"], prefix)
        h, mask = self.task.gather(hidden, batch, self.config)
        return Fused(h, mask, image, has_image)

    def features(self, batch: Mapping[str, Tensor], seen: Tensor) -> VisualFeatures:
        """Features of the pictures of a batch where `seen` (B, slots) is True: as read with it, or by one pass."""
        if "visual_cells" in batch:
            cells = batch["visual_cells"][seen].split(self.vision.stage_widths, dim=-1)
            return VisualFeatures(cells, batch["visual_embedding"][seen])
        return self.vision(batch["pixel_values"][seen], batch["image_mask"][seen])

    def _look(self, batch: Mapping[str, Tensor]) -> tuple[Prefix | PrefixStates, Tensor, Tensor]:
        """The prefix, and the embedding of each whole picture (slot 0), of the pictures that are needed."""
        present = seen = batch["image_mask"]
        if self.config.prefix == "release":  # absent crops of a sample with a picture are zero images, attended to
            seen = present.any(dim=1, keepdim=True).expand_as(present)
        if not (self.training and self.semantic is not None):
            seen = seen & (torch.arange(seen.shape[1], device=seen.device) >= self.prefix.first)
        features = self.features(batch, seen)
        embeddings = features.embedding.new_zeros(*seen.shape, features.embedding.shape[1])
        embeddings[seen] = features.embedding
        return self.prefix(features.cells, seen), embeddings[:, 0], (seen & present)[:, 0]


AutoConfig.register(I2SRMConfig.model_type, I2SRMConfig)
AutoModel.register(I2SRMConfig, I2SRM)
