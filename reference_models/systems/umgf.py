"""UMGF (Zhang et al., AAAI 2021): words and images are nodes of one graph and exchange gated messages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from reference_models.config import Inputs, TextSystemConfig, check_at_least
from reference_models.encoders.text import TextEncoder
from reference_models.encoders.vision import VisionBackbone
from reference_models.errors import UserError
from reference_models.systems.base import Encoded, System
from reference_models.systems.registry import register

HEADS = 8


@dataclass
class UMGFConfig(TextSystemConfig):
    """Settings of UMGF, in addition to the common ones.

    The defaults of `graph_layers` and `graph_dropout` are the paper's; its code has 6 layers and a dropout of 0.4.

    Args:
        text_init: How word states become nodes: by a "linear" layer, as in the published code, or by sinusoidal
            positions and an MLP ("pe_mlp"), as in the paper, which does not state the depth of the MLP.
        nodes: Images that are nodes: the whole image and its crops, or only the "crops", as in the paper.
        graph_layers: Number of graph layers.
        graph_width: Width of the nodes.
        graph_dropout: Dropout in the graph layers and in the MLPs that make nodes.
        tied_init: Initialise all layers as copies of the first, and keys as copies of queries, as the published code
            does.
    """

    freeze_image_backbone: bool = True
    pair: Literal["mean", "marker"] = "marker"
    head_dropout: float = 0.0
    text_init: Literal["linear", "pe_mlp"] = "linear"
    nodes: Literal["whole+crops", "crops"] = "whole+crops"
    graph_layers: int = 2
    graph_width: int = 512
    graph_dropout: float = 0.5
    tied_init: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, "model", graph_layers=1, graph_width=HEADS, graph_dropout=0)
        if self.graph_width % HEADS:
            raise UserError(f"model.graph_width must be a multiple of {HEADS}, got {self.graph_width}")
        if self.graph_dropout >= 1:
            raise UserError(f"model.graph_dropout is a fraction and must be below 1, got {self.graph_dropout}")

    @property
    def inputs(self) -> Inputs:
        """See `SystemConfig`."""
        return Inputs(images={"pooled": "crops" if self.nodes == "crops" else "all"})


class SelfAttention(nn.Module):
    """Self-attention of the nodes of one modality, with a residual and a LayerNorm.

    Args:
        width: Width of the nodes.
        dropout: Dropout of the attention weights and of the output.
        whole: False leaves out the value and output layers, as the published code does for images.
    """

    def __init__(self, width: int, dropout: float, *, whole: bool) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = (nn.Linear(width, width) if whole else nn.Identity() for _ in range(2))
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """Update `nodes` (B, N, D), which attend to nodes in `mask` (B, N); an empty mask gives meaningless output."""
        mask = mask | ~mask.any(dim=1, keepdim=True)
        query, key, value = (
            rearrange(layer(nodes), "b n (h d) -> b h n d", h=HEADS) for layer in (self.query, self.key, self.value)
        )
        rate = self.dropout.p if self.training else 0.0
        seen = F.scaled_dot_product_attention(query, key, value, mask[:, None, None], dropout_p=rate)
        result: Tensor = self.norm(nodes + self.dropout(self.output(rearrange(seen, "b h n d -> b n (h d)"))))
        return result


class GatedMessages(nn.Module):
    """Messages from all nodes of the other modality, with a gate per feature that depends on both nodes.

    sum over j of sigmoid(x_i W1 + o_j W2 + b) * o_j, with a residual and a LayerNorm; it is a sum, not a mean.

    Args:
        width: Width of the nodes.
        dropout: Dropout of the sum.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.own, self.other = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, nodes: Tensor, senders: Tensor, mask: Tensor) -> Tensor:
        """Update `nodes` (B, N, D) with messages from the `senders` (B, M, D) in `mask` (B, M)."""
        gates = (self.own(nodes)[:, :, None] + self.other(senders)[:, None]).sigmoid()
        messages = (gates * senders[:, None]).masked_fill(~mask[:, None, :, None], 0.0).sum(dim=2)
        result: Tensor = self.norm(nodes + self.dropout(messages))
        return result


class FeedForward(nn.Module):
    """Feed-forward layer of half the width, with a residual and a LayerNorm."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.narrow, self.widen = nn.Linear(width, width // 2), nn.Linear(width // 2, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, nodes: Tensor) -> Tensor:
        """Update `nodes` (B, N, D)."""
        result: Tensor = self.norm(nodes + self.dropout(self.widen(self.narrow(nodes).relu())))
        return result


class GraphLayer(nn.Module):
    """Self-attention in each modality, then messages between the modalities, then a feed-forward layer in each.

    Args:
        width: Width of the nodes.
        dropout: Dropout of all parts.
        last: Whether this is the last layer, which does not update the images because they are not used afterwards.
    """

    def __init__(self, width: int, dropout: float, *, last: bool) -> None:
        super().__init__()
        self.text_attention = SelfAttention(width, dropout, whole=True)
        self.image_attention = SelfAttention(width, dropout, whole=False)
        self.to_text, self.text_forward = GatedMessages(width, dropout), FeedForward(width, dropout)
        self.to_image = None if last else GatedMessages(width, dropout)
        self.image_forward = None if last else FeedForward(width, dropout)

    def forward(self, words: Tensor, images: Tensor, real: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Update words (B, L, D), masked by `real` (B, L), and images (B, N, D), masked by `seen` (B, N)."""
        words, images = self.text_attention(words, real), self.image_attention(images, seen)
        updated = self.text_forward(self.to_text(words, images, seen))
        if self.to_image is None or self.image_forward is None:
            return updated, images
        return updated, self.image_forward(self.to_image(images, words, real))


def position_code(length: int, width: int, *, device: torch.device) -> Tensor:
    """Return sinusoidal position embeddings (length, width), as in "Attention is all you need"."""
    rates = 10000 ** (-torch.arange(0, width, 2, device=device) / width)
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def node_map(width: int, nodes: int, dropout: float) -> nn.Sequential:
    """Build two linear layers from `width` to `nodes` features, each followed by a ReLU and dropout."""
    parts: list[nn.Module] = []
    for size in (width, nodes):
        parts += [nn.Linear(size, nodes), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*parts)


def tie_layers(layers: nn.ModuleList) -> None:
    """Copy the query weights of the first layer to its keys, and the first layer to the others, where parts match."""
    first, *others = layers
    for module in first.modules():
        if isinstance(module, SelfAttention):
            module.key.load_state_dict(module.query.state_dict())
    for layer in others:
        own = layer.state_dict()
        layer.load_state_dict({name: value for name, value in first.state_dict().items() if name in own})


@register("umgf")
class UMGF(System):
    """Unified Multi-modal Graph Fusion: every token is connected to every present image."""

    config_class = UMGFConfig
    settings: UMGFConfig
    text_encoder: TextEncoder
    vision: VisionBackbone

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        settings, width = self.settings, self.settings.graph_width
        text = self.text_encoder.width
        self.text_map: nn.Module = nn.Linear(text, width)
        drawn: list[nn.Module] = []
        if settings.text_init == "pe_mlp":
            self.text_map = node_map(text, width, settings.graph_dropout)
            drawn += self.text_map.modules()
        self.image_map = node_map(self.vision.widths["pooled"], width, settings.graph_dropout)
        count = settings.graph_layers
        self.layers = nn.ModuleList(
            GraphLayer(width, settings.graph_dropout, last=number == count - 1) for number in range(count)
        )
        for module in (*drawn, *self.image_map.modules(), *self.layers.modules()):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if settings.tied_init:
            tie_layers(self.layers)
        self.finish(self.task.width(self.text_encoder.width + width))

    def encode(self, batch: Mapping[str, Tensor]) -> Encoded:
        """Return [E ; x]: word states of the text encoder and of the graph; see `System`."""
        features = self.image_features(batch)
        seen, real = features.seen["pooled"], batch["attention_mask"].bool()
        states = self.text_encoder(batch["input_ids"], batch["attention_mask"])
        placed = states
        if self.settings.text_init == "pe_mlp":
            placed = states + position_code(*states.shape[1:], device=states.device).to(states.dtype)
        words, images = self.text_map(placed), self.image_map(features.padded("pooled"))
        for layer in self.layers:
            words, images = layer(words, images, real, seen)
        h, mask = self.task.gather(torch.cat([states, words], dim=-1), batch, self.config)
        return Encoded(h, mask, *self.semantic_image(batch, features))
