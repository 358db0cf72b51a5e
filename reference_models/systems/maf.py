"""MAF (Xu et al., WSDM 2022): a matching score scales the visual part, and a contrastive loss aligns text and image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from attnmixup.functional import masked_mean
from reference_models.config import Inputs, TextSystemConfig, check_at_least
from reference_models.encoders.cross import CrossBlock, draw_like_bert
from reference_models.encoders.text import TextEncoder
from reference_models.encoders.vision import VisionBackbone
from reference_models.errors import UserError
from reference_models.systems.base import Encoded, System
from reference_models.systems.registry import register


@dataclass
class MAFConfig(TextSystemConfig):
    """Settings of MAF, in addition to the common ones.

    Args:
        task_share: lambda, the share of the task loss, summed over a sentence, in the published total loss.
        alignment: Align sentences and images with the contrastive loss.
        text_to_image: Share of the text-to-image direction in the contrastive loss.
        temperature: tau of the contrastive loss.
        negatives: How non-matching samples are made: by exchanging the "image" of two samples, or their fused states
            ("context"), as the published code does; a linear matching head cannot learn from the latter.
        main_on_negatives: Use the exchanged images or states for the task loss too, as the published code does.
        match_head: Matching head on the mean of the words and their visual context: "mlp" or "linear".
        sentence: Sentence vector for the alignment: the state of the "first" token, or the output of the encoder's
            "pooler", as in the published code. The pooler is randomly initialised if the encoder has none.
    """

    freeze_image_backbone: bool = True
    head_dropout: float = 0.0
    pair: Literal["mean", "marker"] = "marker"
    task_share: float = 0.62
    alignment: bool = True
    text_to_image: float = 0.7
    temperature: float = 0.179
    negatives: Literal["image", "context"] = "image"
    main_on_negatives: bool = False
    match_head: Literal["mlp", "linear"] = "mlp"
    sentence: Literal["first", "pooler"] = "first"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, "model", task_share=0.01, text_to_image=0, temperature=1e-3)
        for name in ("task_share", "text_to_image"):
            if getattr(self, name) > 1:
                raise UserError(f"model.{name} is a fraction and must be 1 or less, got {getattr(self, name)}")

    @property
    def inputs(self) -> Inputs:
        """See `SystemConfig`; the pooled image is used only in training."""
        return Inputs(images={"grid": "whole", "pooled": "whole"})


def draw_exchange(images: Tensor, shown: Tensor) -> Tensor:
    """Draw pairs of samples that exchange their different images: at most a quarter of the samples with an image.

    Args:
        images: Image embeddings (B, D); equal rows are the same image.
        shown: (B,), True for samples with an image.

    Returns:
        For each sample, the index (B,) of the sample whose image it takes, which is mostly its own.
    """
    source = torch.arange(len(images))
    wanted = int(shown.sum()) // 8
    waiting: list[int] = []
    for sample in torch.randperm(len(images)).tolist():
        if not shown[sample] or wanted == 0:
            continue
        other = next((one for one in waiting if not torch.equal(images[one], images[sample])), None)
        if other is None:
            waiting.append(sample)
            continue
        waiting.remove(other)
        source[sample], source[other] = other, sample
        wanted -= 1
    return source.to(images.device)


def contrastive_loss(
    texts: Tensor, images: Tensor, same: Tensor, *, temperature: float, text_to_image: float
) -> Tensor:
    """Compute the contrastive loss of matching texts and images, with cosine similarities as logits.

    Args:
        texts, images: Embeddings (N, D); row i of both is one sample.
        same: (N, N), True for samples with the same image, which are not negatives of each other.
        temperature: Divisor of the cosine similarities.
        text_to_image: Share of the text-to-image direction.

    Returns:
        A scalar; 0 for a single sample.
    """
    with torch.autocast(texts.device.type, enabled=False):
        cosines = F.normalize(texts.float(), dim=1) @ F.normalize(images.float(), dim=1).T / temperature
        others = same & ~torch.eye(len(texts), dtype=torch.bool, device=texts.device)
        cosines = cosines.masked_fill(others, -torch.inf)
        own = torch.arange(len(texts), device=texts.device)
        forth, back = F.cross_entropy(cosines, own), F.cross_entropy(cosines.T, own)
        return text_to_image * forth + (1 - text_to_image) * back


@register("maf")
class MAF(System):
    """Matching and Alignment Framework.

    The visual part of a sample without an image is zero, and matching and alignment skip the sample.
    """

    config_class = MAFConfig
    settings: MAFConfig
    text_encoder: TextEncoder
    vision: VisionBackbone

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        text, width = self.text_encoder.body.config, self.text_encoder.width
        settings = self.settings
        self.dropout = nn.Dropout(getattr(text, "hidden_dropout_prob", 0.1))
        self.visual_map = nn.Linear(self.vision.widths["grid"], width)
        self.block = CrossBlock(text)
        self.text_gate, self.image_gate = nn.Linear(width, width), nn.Linear(width, width)
        if settings.match_head == "linear":
            self.match: nn.Module = nn.Linear(2 * width, 2)
        else:
            self.match = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 2))
        if settings.alignment:
            self.text_map = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            pooled = self.vision.widths["pooled"]
            self.image_map = nn.Sequential(nn.Linear(pooled, width), nn.ReLU(), nn.Linear(width, width))
            if settings.sentence == "pooler":
                self.pooler = nn.Linear(width, width)
        for name in ("visual_map", "text_gate", "image_gate", "match", "text_map", "image_map", "pooler"):
            if hasattr(self, name):
                getattr(self, name).apply(draw_like_bert)
        self.finish(self.task.width(2 * width))

    def fill_text_encoder(self, pretrained: PreTrainedModel, name: str) -> None:
        """See `System`; the pooler gets the weights of `pretrained` if it has a pooler."""
        super().fill_text_encoder(pretrained, name)
        pooler = getattr(getattr(pretrained, "pooler", None), "dense", None)
        if hasattr(self, "pooler") and pooler is not None:
            self.pooler.load_state_dict(pooler.state_dict())

    def encode(self, batch: Mapping[str, Tensor]) -> Encoded:
        """Return [T ; g * p C]: word states, and their visual context scaled by a gate and the matching probability."""
        features = self.image_features(batch)
        grid, shown = features.padded("grid")[:, 0], features.seen["grid"][:, 0]
        real = batch["attention_mask"].bool()
        states = self.text_encoder(batch["input_ids"], batch["attention_mask"])
        words, cells = self.dropout(states), self.visual_map(grid)
        seen = shown[:, None].expand(-1, cells.shape[1])
        context = self.block(words, cells, seen)
        if self.training:
            pooled = features.padded("pooled")[:, 0]
            source = draw_exchange(pooled.detach(), shown)
            moved = source != torch.arange(len(source), device=source.device)
            exchanged = self._exchange(words, cells, context, source, moved)
            if self.settings.main_on_negatives:
                context = exchanged
        matching = self.match_scores(words, context, real).softmax(dim=-1)[:, 1]
        visual = torch.where(shown[:, None, None], matching[:, None, None] * context, 0.0)
        gate = (self.text_gate(words) + self.image_gate(visual)).sigmoid()
        h, mask = self.task.gather(torch.cat([words, gate * visual], dim=-1), batch, self.config)
        losses: dict[str, Tensor] = {}
        if self.training:
            # The task loss is per word here, but summed over a sentence in the published total.
            length = 1.0 if mask is None else mask.sum(dim=1).float().mean()
            weight = (1 - self.settings.task_share) / self.settings.task_share / length
            if moved.any():
                scores = self.match_scores(words, exchanged, real)
                losses["match_loss"] = weight * F.cross_entropy(scores[shown].float(), (~moved)[shown].long())
            if self.settings.alignment and shown.any():
                sentence = states[:, 0] if self.settings.sentence == "first" else torch.tanh(self.pooler(states[:, 0]))
                losses["alignment_loss"] = weight * self._alignment_loss(sentence, pooled, shown)
        return Encoded(h, mask, *self.semantic_image(batch, features), losses=losses)

    def match_scores(self, words: Tensor, context: Tensor, real: Tensor) -> Tensor:
        """Compute the scores (B, 2) of a mismatch and of a match."""
        scores: Tensor = self.match(masked_mean(torch.cat([words, context], dim=-1), real))
        return scores

    def _exchange(self, words: Tensor, cells: Tensor, context: Tensor, source: Tensor, moved: Tensor) -> Tensor:
        """Return the fused states (B, L, C), where samples in `moved` use the image or fused states of `source`."""
        if self.settings.negatives == "context":
            return context[source]
        if not moved.any():
            return context
        rows = cells[source][moved]
        other = self.block(words[moved], rows, torch.ones_like(rows[..., 0], dtype=torch.bool))
        return context.masked_scatter(moved[:, None, None], other)

    def _alignment_loss(self, sentence: Tensor, pooled: Tensor, shown: Tensor) -> Tensor:
        own = pooled[shown]
        same = (own[:, None] == own[None]).all(dim=-1)
        return contrastive_loss(
            self.text_map(sentence[shown]),
            self.image_map(own),
            same,
            temperature=self.settings.temperature,
            text_to_image=self.settings.text_to_image,
        )
