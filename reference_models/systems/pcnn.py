"""PCNN (Zeng et al., EMNLP 2015): a convolution over words, max-pooled before, between and after the two entities."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reference_models.config import WordSystemConfig, check_at_least
from reference_models.systems.base import Encoded, System
from reference_models.systems.registry import register

REACH = 128  # distances to an entity are clamped to this
SEGMENTS = 3


@dataclass
class PCNNConfig(WordSystemConfig):
    """Settings of PCNN, in addition to the common ones.

    Args:
        word_width: Width of the word embeddings.
        position_width: Width of the embedding of a distance to an entity.
        filters: Filters of the convolution.
        nonlinearity: Function after pooling: "tanh" (the paper) or "relu" (OpenNRE).
        boundary: Word of an entity that ends a segment: its first ("start", OpenNRE) or its last ("end").
        double_dropout: Apply dropout to `h` too, at the rate of the head, as OpenNRE does.
    """

    head_dropout: float = 0.5
    word_width: int = 50
    position_width: int = 5
    filters: int = 230
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    boundary: Literal["start", "end"] = "start"
    double_dropout: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, "model", word_width=1, position_width=1, filters=1)


def without_markers(
    ids: Tensor, mask: Tensor, entities: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, dict[str, Tensor]]]:
    """Remove the markers around both entities from sentences.

    Args:
        ids: Ids of the words (B, L).
        mask: (B, L), True for a real word or marker.
        entities: For each entity, a mask (B, L), True between its opening and closing marker.

    Returns:
        The ids and the mask without the four markers of each sentence, and for each entity the positions (B,) of its
        first word ("start") and its last word ("end").
    """
    places = torch.arange(ids.shape[1], device=ids.device)
    markers = torch.zeros_like(mask)
    spans = {}
    for name, inside in entities.items():
        start = inside.int().argmax(dim=1)
        end = ids.shape[1] - inside.flip(1).int().argmax(dim=1)
        markers |= (places == start[:, None] - 1) | (places == end[:, None])
        spans[name] = start, end
    kept = mask & ~markers
    order = (~kept).int().argsort(dim=1, stable=True)
    before = {name: [(kept & (places < place[:, None])).sum(dim=1) for place in span] for name, span in spans.items()}
    moved = {name: {"start": start, "end": end - 1} for name, (start, end) in before.items()}
    return ids.gather(1, order), kept.gather(1, order), moved


def pool_segments(rows: Tensor, mask: Tensor, head: Tensor, tail: Tensor) -> Tensor:
    """Max-pool features before, between and after the entities; an empty segment gives 0.

    Args:
        rows: Features (B, L, C).
        mask: (B, L), True for a real word.
        head, tail: Position (B,) of a word of each entity; the earlier one ends the first segment.

    Returns:
        Pooled features (B, 3 C).
    """
    places = torch.arange(rows.shape[1], device=rows.device)
    left, right = torch.minimum(head, tail)[:, None], torch.maximum(head, tail)[:, None]
    pooled = []
    for inside in (places <= left, (places > left) & (places <= right), places > right):
        own = (inside & mask)[..., None]
        largest = rows.masked_fill(~own, -torch.inf).max(dim=1).values
        pooled.append(torch.where(own.any(dim=1), largest, 0.0))
    return torch.cat(pooled, dim=-1)


@register("pcnn")
class PCNN(System):
    """Convolution over words and their distances to both entities, without entity markers."""

    config_class = PCNNConfig
    settings: PCNNConfig
    tasks = ("re",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        settings = self.settings
        self.words = nn.Embedding(max(config.vocabulary, 2), settings.word_width, padding_idx=0)
        nn.init.uniform_(self.words.weight, -0.25, 0.25)
        with torch.no_grad():
            self.words.weight[0].zero_()
        tables = {
            name: nn.Embedding(2 * REACH + 1, settings.position_width, padding_idx=0) for name in ("head", "tail")
        }
        self.positions = nn.ModuleDict(tables)
        width = settings.word_width + 2 * settings.position_width
        self.convolution = nn.Conv1d(width, settings.filters, kernel_size=3, padding=1)
        self.dropout = nn.Dropout(settings.head_dropout if settings.double_dropout else 0.0)
        self.finish(SEGMENTS * settings.filters)

    def make_text_encoder(self) -> None:
        """Return None: the system reads words; see `System`."""

    def fill_words(self, path: str, ids: Mapping[str, int]) -> None:
        """See `System`; words without a vector are drawn from N(0, 1 / width), as in OpenNRE."""
        if path != "none":
            self.words.weight.data[1:].normal_(std=self.settings.word_width**-0.5)
        super().fill_words(path, ids)

    def encode(self, batch: Mapping[str, Tensor]) -> Encoded:
        """Return the pooled segments; see `System`."""
        entities = {name: batch[f"{name}_mask"] for name in ("head", "tail")}
        ids, mask, spans = without_markers(batch["input_ids"], batch["attention_mask"].bool(), entities)
        places = torch.arange(ids.shape[1], device=ids.device)
        parts = [self.words(ids)]
        for name, span in spans.items():
            distance = (places - span["start"][:, None]).clamp(-REACH, REACH - 1) + REACH + 1
            parts.append(self.positions[name](distance * mask))
        rows = torch.cat(parts, dim=-1) * mask[..., None]
        found = self.convolution(rows.transpose(1, 2)).transpose(1, 2)
        head, tail = (spans[name][self.settings.boundary] for name in ("head", "tail"))
        pooled = pool_segments(found, mask, head, tail)
        return Encoded(self.dropout(torch.tanh(pooled) if self.settings.nonlinearity == "tanh" else pooled.relu()))
