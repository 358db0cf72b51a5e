"""AdapCoAtt-BERT-CRF (Zhang et al., AAAI 2018): words and image cells attend to each other, and two gates mix them."""

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
    """Settings of AdapCoAtt-BERT-CRF, beside those of all systems.

    Args:
        coattn: how a pair is scored: "add" sums the maps of both sides; "concat", the letter of the paper, joins them,
            so that the side of the query cancels in the softmax and every word attends alike.
        attention_width: of the scores; 0 for that of the text encoder.
        fusion: "paper" weighs what is seen and what is answered by a gate that reads both, and filters their sum by a
            gate that reads the word too; "code", as published, gates by the sum, maps both parts, joined, to the width
            of a word, and filters by a gate that does not read the word, which has a map of its own.
    """

    freeze_image_backbone: bool = True
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
    """Scores of pairs of a query and a key: w . tanh(A key + B query + b), or the same on [A key ; B query + b].

    Args:
        width: of queries and keys.
        inner: of the maps.
        concat: whether both are joined; then the query adds the same to the scores of all keys.
    """

    def __init__(self, width: int, inner: int, *, concat: bool) -> None:
        super().__init__()
        self.key = nn.Linear(width, inner, bias=False)
        self.query = nn.Linear(width, inner)
        self.score = nn.Linear(inner, 1, bias=False)
        self.query_score = nn.Linear(inner, 1, bias=False) if concat else None

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Scores (B, queries, keys) of `queries` (B, queries, C) and `keys` (B, keys, C)."""
        asked, held = self.query(queries)[:, :, None], self.key(keys)[:, None]
        if self.query_score is None:
            scores: Tensor = self.score(torch.tanh(asked + held)).squeeze(-1)
            return scores
        joined: Tensor = (self.score(torch.tanh(held)) + self.query_score(torch.tanh(asked))).squeeze(-1)
        return joined


@register("adapcoatt")
class AdapCoAtt(System):
    """Adaptive co-attention over the words of a text encoder; without an image it is BERT-CRF."""

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
        """[h ; u]: the words, and what passes both gates of the image and of what it asks the words; see `System`."""
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
