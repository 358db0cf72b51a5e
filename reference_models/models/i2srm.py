"""I2SRM: object crops as a visual prefix of the text encoder, then AttnMixup and the semantic loss."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from reference_models.models.base import Extractor, Fused
from reference_models.models.configuration import I2SRMConfig
from reference_models.models.prefix import VisualPrefix
from reference_models.models.text import TextEncoder
from reference_models.models.vision import VisionBackbone


class I2SRM(Extractor):
    """The paper's system; with `config.vision=None` its text-only form (BERT-CRF, or BERT with a pair classifier)."""

    def __init__(self, config: I2SRMConfig) -> None:
        super().__init__(config)
        self.text = TextEncoder(config.text_config)
        width = self.text.width if config.task == "ner" else 2 * self.text.width
        if config.vision is None:
            self.finish(width, None)
            return
        self.vision = VisionBackbone(config.vision, frozen=config.freeze_image_backbone)
        self.prefix = VisualPrefix(
            self.vision.stage_widths, layers=self.text.layers, heads=self.text.heads, width=self.text.width
        )
        self.finish(width, self.vision.stage_widths[-1])

    def fuse(self, batch: Mapping[str, Tensor]) -> Fused:
        """Encode the text with the crops as prefix; words for tagging, the marked pair for relations."""
        prefix = image = has_image = None
        if self.config.vision is not None:
            pixels, present = batch["pixel_values"], batch["image_mask"]
            if not (self.training and self.semantic is not None):
                present = present & (torch.arange(present.shape[1], device=present.device) > 0)
            features = self.vision(pixels[present])
            is_crop = present.nonzero()[:, 1] > 0
            prefix = self.prefix(tuple(stage[is_crop] for stage in features.stages), present[:, 1:])
            has_image = present[:, 0]
            image = features.pooled.new_zeros(len(present), features.pooled.shape[1])
            image[has_image] = features.pooled[~is_crop]
        hidden = self.text(batch["input_ids"], batch["attention_mask"], prefix)
        if self.config.task == "ner":
            words = hidden.gather(1, batch["word_starts"][..., None].expand(-1, -1, hidden.shape[2]))
            return Fused(words, batch["word_mask"], image, has_image)
        entities = [_masked_mean(hidden, batch[name]) for name in ("head_mask", "tail_mask")]
        return Fused(torch.cat(entities, dim=-1), None, image, has_image)


def _masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(hidden.dtype)[..., None]
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


AutoConfig.register(I2SRMConfig.model_type, I2SRMConfig)
AutoModel.register(I2SRMConfig, I2SRM)
