"""AdapCoAtt-BERT-CRF (Zhang et al., AAAI 2018): co-attention of words and image cells, and two gates that fuse them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reference_models.config import Inputs, TextSystemConfig, check_at_least
from reference_models.encoders.cross import draw_like_bert
from reference_models.encoders.text import TextEncoder
from reference_models.encoders.vision import VisionBackbone
from reference_models.systems.base import Encoded, System
from reference_models.systems.registry import register


@dataclass
class AdapCoAttConfig(TextSystemConfig):
    """Settings of AdapCoAtt-BERT-CRF, in addition to the common ones.

    Args:
        coattn: How a query-key pair is scored. "add" sums the projections of both. "concat", the literal reading of
            the paper, concatenates them; the query then cancels in the softmax, and all words have the same attention.
        attention_width: Hidden width of the attention scores; 0 for the width of the text encoder.
        fusion: How the visual and the textual attention output are fused. "paper": a gate that reads both sets their
            shares of a weighted sum, and the filter gate also reads the word. "code", as published: a gate reads the
            sum of both, a linear layer maps the weighted parts, concatenated, to the width of a word, the filter gate
            does not read the word, and the word passes a linear layer.
    """

    freeze_image_backbone: bool = True
    head_dropout: float = 0.0
    coattn: Literal["add", "concat"] = "add"
    attention_width: int = 0
    fusion: Literal["paper", "code"] = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, "model", attention_width=0)

    @property
    def inputs(self) -> Inputs:
        """See `SystemConfig`."""
        return Inputs(images={"grid": "whole"})


class PairScores(nn.Module):
    """Scores of query-key pairs: w . tanh(A key + B query + b), or w . tanh([A key ; B query + b]).

    Args:
        width: Width of queries and keys.
        inner: Hidden width.
        concat: Concatenate both sides; the query then adds the same value to the scores of all keys.
    """

    def __init__(self, width: int, inner: int, *, concat: bool) -> None:
        super().__init__()
        self.key = nn.Linear(width, inner, bias=False)
        self.query = nn.Linear(width, inner)
        self.score = nn.Linear(inner, 1, bias=False)
        self.query_score = nn.Linear(inner, 1, bias=False) if concat else None

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Compute the scores (B, queries, keys) of `queries` (B, queries, C) and `keys` (B, keys, C)."""
        asked, held = self.query(queries)[:, :, None], self.key(keys)[:, None]
        if self.query_score is None:
            scores: Tensor = self.score(torch.tanh(asked + held)).squeeze(-1)
            return scores
        joined: Tensor = (self.score(torch.tanh(held)) + self.query_score(torch.tanh(asked))).squeeze(-1)
        return joined


@register("adapcoatt")
class AdapCoAtt(System):
    """Adaptive co-attention over the words of a text encoder; without an image it reduces to BERT-CRF."""

    config_class = AdapCoAttConfig
    settings: AdapCoAttConfig
    text_encoder: TextEncoder
    vision: VisionBackbone
    tasks = ("ner",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        text, width = self.text_encoder.body.config, self.text_encoder.width
        inner, concat = self.settings.attention_width or width, self.settings.coattn == "concat"
        self.dropout = nn.Dropout(getattr(text, "hidden_dropout_prob", 0.1))
        self.visual_map = nn.Linear(self.vision.widths["grid"], width)
        self.visual_attention = PairScores(width, inner, concat=concat)
        self.textual_attention = PairScores(width, inner, concat=concat)
        self.visual_mix, self.textual_mix = nn.Linear(width, width), nn.Linear(width, width)
        if self.settings.fusion == "paper":
            self.fusion_gate, self.filter_gate = nn.Linear(2 * width, 1, bias=False), nn.Linear(2 * width, 1)
            self.filtered = nn.Linear(width, width)
        else:
            self.fusion_gate, self.filter_gate = nn.Linear(width, 1), nn.Linear(width, 1)
            self.mixed_map, self.word_map = nn.Linear(2 * width, width), nn.Linear(width, width)
        for name, module in self.named_children():
            if name not in ("text_encoder", "vision"):
                module.apply(draw_like_bert)
        self.finish(2 * width)

    def encode(self, batch: Mapping[str, Tensor]) -> Encoded:
        """Return [h ; u]: word states, and gated visual and textual attention; see `System`."""
        features = self.image_features(batch)
        shown = features.seen["grid"][..., None]
        states = self.dropout(self.text_encoder(batch["input_ids"], batch["attention_mask"]))
        words, _ = self.task.gather(states, batch, self.config)
        mask = batch["word_mask"]
        cells = torch.tanh(self.visual_map(features.padded("grid")[:, 0]))
        seen = self.visual_attention(words, cells).softmax(dim=-1) @ cells
        scores = self.textual_attention(seen, words).masked_fill(~mask[:, None], -torch.inf)
        answered = scores.softmax(dim=-1) @ words
        visual, textual = torch.tanh(self.visual_mix(seen)), torch.tanh(self.textual_mix(answered))
        if self.settings.fusion == "paper":
            share = self.fusion_gate(torch.cat([visual, textual], dim=-1)).sigmoid()
            mixed = share * visual + (1 - share) * textual
            passed = self.filter_gate(torch.cat([words, mixed], dim=-1)).sigmoid() * torch.tanh(self.filtered(mixed))
        else:
            share = self.fusion_gate(visual + textual).sigmoid()
            mixed = self.mixed_map(torch.cat([share * visual, (1 - share) * textual], dim=-1))
            passed, words = self.filter_gate(mixed).sigmoid() * mixed, self.word_map(words)
        h = torch.cat([words, torch.where(shown, passed, 0.0)], dim=-1)
        return Encoded(h, mask, *self.semantic_image(batch, features))
