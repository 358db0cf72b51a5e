"""UMT (Yu et al., ACL 2020): words and image cells attend to each other; a text-only branch scores spans."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reference_models.config import Inputs, TextSystemConfig, check_at_least
from reference_models.encoders.cross import CrossBlock, draw_like_bert
from reference_models.encoders.text import TextEncoder
from reference_models.encoders.vision import VisionBackbone
from reference_models.errors import UserError
from reference_models.systems.base import Encoded, System
from reference_models.systems.registry import register
from reference_models.tasks.heads import Head, LinearHead


@dataclass
class UMTConfig(TextSystemConfig):
    """Settings of UMT, in addition to the common ones.

    Args:
        alpha: Share of the typed scores; the remaining share belongs to the span scores, converted to types.
        span_weight: beta, the weight of the loss of the span branch.
        conversion: "fixed" splits the score of a span tag equally among its types, as published; "free" has no
            conversion, but one linear layer over all features.
        share_visual_map: Use the same linear layer of the image cells for both directions.
    """

    freeze_image_backbone: bool = True
    pair: Literal["mean", "marker"] = "marker"
    head_dropout: float = 0.0
    alpha: float = 0.5
    span_weight: float = 0.5
    conversion: Literal["fixed", "free"] = "fixed"
    share_visual_map: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, "model", alpha=0, span_weight=0)
        if self.alpha > 1:
            raise UserError(f"model.alpha is a fraction and must be 1 or less, got {self.alpha}")

    @property
    def inputs(self) -> Inputs:
        """See `SystemConfig`."""
        return Inputs(images={"grid": "whole"})


def span_tags(labels: Sequence[str]) -> tuple[list[int], list[list[float]]] | None:
    """Return the span tags, that is, BIO tags without types, and the matrix that converts their scores to labels.

    Args:
        labels: Labels of a task.

    Returns:
        The index of the span tag of each label, and the conversion matrix M (span tags, labels). Each row of M splits
        1 equally among the labels of a span tag. None if the labels are not BIO tags.
    """
    if not any(label.startswith("B-") for label in labels):
        return None
    names = [label[0] if label.startswith(("B-", "I-")) else label for label in labels]
    kinds = sorted(set(names))
    conversion = [[(name == kind) / names.count(kind) for name in names] for kind in kinds]
    return [kinds.index(name) for name in names], conversion


class ConvertedHead(Head):
    """Head that combines typed scores of F with span scores of T, converted by a fixed matrix M.

    e = alpha F Wc + (1 - alpha) T Wa M. This is linear in `h` = [F ; T], so mixed rows get mixed scores.

    Args:
        typed: Head for F.
        spans: Head for T.
        conversion: M, (span tags, labels).
        alpha: Share of the typed scores.
    """

    def __init__(
        self, typed: LinearHead, spans: LinearHead, conversion: Sequence[Sequence[float]], alpha: float
    ) -> None:
        super().__init__()
        self.typed, self.spans, self.conversion, self.alpha = typed, spans, conversion, alpha
        self.learning_rate, self.loss, self.decode = typed.learning_rate, typed.loss, typed.decode
        self.lattice = typed.lattice

    def forward(self, rows: Tensor) -> Tensor:
        """Compute the scores (..., labels) of `rows` = [F ; T], in float32."""
        width = self.typed.linear.in_features
        spans = self.spans(rows[..., width:])
        spans = spans @ torch.tensor(self.conversion, device=spans.device)
        scores: Tensor = self.alpha * self.typed(rows[..., :width]) + (1 - self.alpha) * spans
        return scores


@register("umt")
class UMT(System):
    """Unified Multimodal Transformer.

    The published code has no samples without an image; here such samples have A = R and a visual part of zero. The
    model for relations is our extension: the same architecture without the span branch.
    """

    config_class = UMTConfig
    settings: UMTConfig
    text_encoder: TextEncoder
    vision: VisionBackbone

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        text = self.text_encoder.body.config
        width = self.text_encoder.width
        self.spans = span_tags(config.labels)
        self.dropout = nn.Dropout(getattr(text, "hidden_dropout_prob", 0.1))
        self.self_block, self.text_to_image, self.image_to_text, self.text_to_text = (
            CrossBlock(text) for _ in range(4)
        )
        self.span_block = CrossBlock(text) if self.spans else None
        cells = self.vision.widths["grid"]
        self.visual_map = nn.Linear(cells, width)
        self.second_visual_map = None if self.settings.share_visual_map else nn.Linear(cells, width)
        self.gate = nn.Linear(2 * width, width)
        for layer in (self.visual_map, self.second_visual_map, self.gate):
            if layer is not None:
                draw_like_bert(layer)
        self.finish(self.task.width((3 if self.spans else 2) * width))

    def make_head(self, width: int) -> Head:
        """Create the head for types, combined with a head for spans; see `System` and `ConvertedHead`."""
        if self.spans is None or self.settings.conversion == "free":
            head = self.task.make_head(width, self.config)
            if self.spans is not None:
                self.span_head = type(head)(width // 3, len(self.spans[1]), 0.0)
            return head
        typed = self.task.make_head(2 * width // 3, self.config)
        spans = type(typed)(width // 3, len(self.spans[1]), 0.0)
        return ConvertedHead(typed, spans, self.spans[1], self.settings.alpha)

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rates; the span head has the rate of the head; see `System`."""
        own = {"span_head": self.head.learning_rate} if hasattr(self, "span_head") else {}
        return super().learning_rates() | own

    def encode(self, batch: Mapping[str, Tensor]) -> Encoded:
        """Return [A ; g * Q ; T]: image-aware states, gated visual states, and the span branch; see `System`."""
        features = self.image_features(batch)
        grid, shown = features.padded("grid")[:, 0], features.seen["grid"]
        real, cells = batch["attention_mask"].bool(), shown.expand(-1, grid.shape[1])
        hidden = self.dropout(self.text_encoder(batch["input_ids"], batch["attention_mask"]))
        words = self.self_block(hidden, hidden, real)
        first = self.visual_map(grid)
        second = first if self.second_visual_map is None else self.second_visual_map(grid)
        seen = self.text_to_image(words, first, cells)  # Q
        answers = self.image_to_text(second, words, real)  # P
        aware = self.text_to_text(words, answers, cells)  # A
        visual = self.gate(torch.cat([aware, seen], dim=-1)).sigmoid() * seen
        aware = torch.where(shown[..., None], aware, words)
        visual = torch.where(shown[..., None], visual, 0.0)
        parts = [aware, visual]
        if self.span_block is not None:
            parts.append(self.span_block(hidden, hidden, real))
        h, mask = self.task.gather(torch.cat(parts, dim=-1), batch, self.config)
        return Encoded(h, mask, *self.semantic_image(batch, features), losses=self._span_loss(h, mask, batch))

    def _span_loss(self, h: Tensor, mask: Tensor | None, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.spans is None or "labels" not in batch:
            return {}
        head = self.head.spans if isinstance(self.head, ConvertedHead) else self.span_head
        numbers = torch.tensor(self.spans[0], device=h.device)
        losses = head.loss(head(h[..., 2 * h.shape[-1] // 3 :]), numbers[batch["labels"]], mask)
        return {"span_loss": self.settings.span_weight * losses.mean()}
