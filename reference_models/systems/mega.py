"""Compact MEGA (Zheng et al., ACM MM 2021): objects attend to the words, and a similarity aligns both a second time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference_models.config import Inputs, TextSystemConfig
from reference_models.encoders.text import TextEncoder
from reference_models.encoders.vision import VisionBackbone
from reference_models.systems.base import Encoded, System
from reference_models.systems.images import Objects, object_views
from reference_models.systems.registry import register


@dataclass
class MEGAConfig(TextSystemConfig):
    """Settings of MEGA, in addition to the common ones.

    The paper aligns the scene graph of the image with the parse of the sentence, computed offline. Here the similarity
    of their features replaces this structure, so the results are those of "MEGA-lite".

    Args:
        nodes: Objects: "pooled" vectors of the image and its crops, the cells of the whole image's "grid", or "both".
        align: Second alignment: the "similarity" of features, or "none".
        align_norm: The aligned words are a "mean" over the sentence, or a "sum", which grows with its length.
        ner_context: Aligned part of a word: the word weighted by its own alignment ("token"), or the aligned words of
            the sentence, the same for all words ("global"). Entities are our extension; the paper has only relations.
        scramble_alignment: Reshape the (words x objects) weights to (objects x words) without transposing them, as the
            published code does.
        mask_padding: False lets objects attend to padding, as the published code does.
        count_absent: Include absent objects, as zeros, in the attention and in the sums, as the published code does.
    """

    freeze_image_backbone: bool = True
    pair: Literal["mean", "marker"] = "marker"
    head_dropout: float = 0.5
    nodes: Objects = "pooled"
    align: Literal["similarity", "none"] = "similarity"
    align_norm: Literal["mean", "sum"] = "mean"
    ner_context: Literal["token", "global"] = "token"
    scramble_alignment: bool = False
    mask_padding: bool = True
    count_absent: bool = False

    @property
    def inputs(self) -> Inputs:
        """See `SystemConfig`."""
        return Inputs(images=object_views(self.nodes))


def similarity(tokens: Tensor, objects: Tensor) -> Tensor:
    """Compute `exp(-|o - t|)` (B, L, K) of tokens (B, L, D) and objects (B, K, D), both scaled to length 1."""
    with torch.autocast(tokens.device.type, enabled=False):
        return torch.exp(-torch.cdist(F.normalize(tokens.float(), dim=-1), F.normalize(objects.float(), dim=-1)))


def by_object(weights: Tensor, *, scramble: bool) -> Tensor:
    """Convert weights (B, L, K) to (B, K, L) by transposing, or by a plain reshape if `scramble` is set."""
    if scramble:
        return weights.reshape(len(weights), weights.shape[2], weights.shape[1])
    return weights.transpose(1, 2)


def inner_words(batch: Mapping[str, Tensor]) -> Tensor:
    """Return the mask (B, L) of the sentence's sub-words, without special tokens, padding and entity markers."""
    real = batch["attention_mask"].bool()
    inner = real & F.pad(real, (0, 1))[:, 1:]
    inner[:, 0] = False
    for name in ("head_mask", "tail_mask"):
        if name in batch:
            entity = batch[name]
            inner = inner & (entity | ~(F.pad(entity, (0, 1))[:, 1:] | F.pad(entity, (1, 0))[:, :-1]))
    return inner


@register("mega")
class MEGA(System):
    """Multimodal relation extraction with efficient graph alignment, without the graphs.

    The sum over the objects is computed before the layer W_1, which is linear.
    """

    config_class = MEGAConfig
    settings: MEGAConfig
    text_encoder: TextEncoder
    vision: VisionBackbone

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        hidden = self.text_encoder.width
        width = 2 * hidden
        self.word_map, self.object_map = nn.Linear(hidden, width), nn.Linear(self.vision.widths["grid"], width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.join = nn.Linear(2 * width, width)
        self.output = nn.Linear(2 * width, width)
        self.finish(width)

    def encode(self, batch: Mapping[str, Tensor]) -> Encoded:
        """Return [e ; f] W_2: the entity pair or each word, with the sum of the aligned objects; see `System`."""
        settings, features = self.settings, self.image_features(batch)
        real = batch["attention_mask"].bool()
        rows = [features.padded(view) for view in features.rows]
        shown = [features.seen[view] for view in features.rows]
        objects = torch.cat([each.flatten(1, -2) for each in rows], dim=1)
        seen = torch.cat(
            [
                mask if each.ndim == 3 else mask.expand(each.shape[0], each.shape[2])
                for each, mask in zip(rows, shown, strict=True)
            ],
            dim=1,
        )
        counted = torch.ones_like(seen) if settings.count_absent else seen
        states = self.text_encoder(batch["input_ids"], batch["attention_mask"])
        words, objects = self.word_map(states), self.object_map(objects)
        attended = real if settings.mask_padding else torch.ones_like(real)
        looks = F.scaled_dot_product_attention(
            self.query(objects), self.key(words), self.value(words), attended[:, None]
        ).sigmoid()
        looks = torch.where(counted[..., None], looks, 0.0).sum(dim=1)
        weights = self._alignment(words, objects, inner_words(batch), seen)
        count = counted.sum(dim=1, keepdim=True)
        entities, mask = self.task.gather(states, batch, self.config)
        if mask is None:  # one vector per sample
            aligned = (weights @ words).sum(dim=1)
            return Encoded(self._fuse(entities, looks, aligned, count), mask, *self.semantic_image(batch, features))
        entities, mask = self.task.gather(words, batch, self.config)
        looks, count = looks[:, None].expand_as(entities), count[:, None]
        if settings.ner_context == "token":
            aligned = entities * weights.sum(dim=1).gather(1, batch["word_starts"])[..., None]
        else:
            aligned = (weights @ words).sum(dim=1, keepdim=True).expand_as(entities)
        return Encoded(self._fuse(entities, looks, aligned, count), mask, *self.semantic_image(batch, features))

    def _alignment(self, words: Tensor, objects: Tensor, inner: Tensor, seen: Tensor) -> Tensor:
        """Return the weight (B, K, L) of each token for each object; 0 for masked tokens and absent objects."""
        if self.settings.align == "none":
            return words.new_zeros(len(words), objects.shape[1], words.shape[1])
        weights = similarity(words, objects).to(words.dtype)
        weights = torch.where(inner[..., None] & seen[:, None], weights, 0.0)
        if self.settings.align_norm == "mean":
            weights = weights / inner.sum(dim=1)[:, None, None].clamp(min=1)
        return by_object(weights, scramble=self.settings.scramble_alignment)

    def _fuse(self, entities: Tensor, looks: Tensor, aligned: Tensor, count: Tensor) -> Tensor:
        """Compute [e ; [G ; R] W_1 + count b_1] W_2 + b_2, where G and R are sums over `count` objects."""
        objects = F.linear(torch.cat([looks, aligned], dim=-1), self.join.weight) + count * self.join.bias
        fused: Tensor = self.output(torch.cat([entities, objects], dim=-1))
        return fused
