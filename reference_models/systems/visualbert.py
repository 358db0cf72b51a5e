"""VisualBERT (Li et al., 2019): image regions follow the words in the input sequence of one BERT."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, VisualBertConfig, VisualBertModel

from reference_models.config import Inputs, TextSystemConfig
from reference_models.encoders.text import TextEncoder
from reference_models.encoders.vision import VisionBackbone
from reference_models.errors import UserError
from reference_models.systems.base import Encoded, System
from reference_models.systems.images import Objects, object_views
from reference_models.systems.registry import register

TABLES = ("position_embeddings", "token_type_embeddings")


@dataclass
class VisualBERTConfig(TextSystemConfig):
    """Settings of VisualBERT, in addition to the common ones.

    `text` is a VisualBERT, or a BERT whose position and type embeddings are copied for the regions.

    Args:
        regions: "pooled" vectors of the image and its crops, the cells of the whole image's "grid", or "both".
        norm_regions: Apply a LayerNorm to the regions, because ImageNet features have another scale than the features
            that VisualBERT was pre-trained on.
        reinit_visual_projection: Initialise the projection of the regions at random; otherwise the pre-trained one must
            fit the image backbone.
    """

    text: str = "uclanlp/visualbert-vqa-coco-pre"
    freeze_image_backbone: bool = True
    pair: Literal["mean", "marker"] = "marker"
    regions: Objects = "pooled"
    norm_regions: bool = True
    reinit_visual_projection: bool = False

    @property
    def inputs(self) -> Inputs:
        """See `SystemConfig`."""
        return Inputs(images=object_views(self.regions))


class RegionEncoder(TextEncoder):
    """`VisualBertModel` with the interface of a text encoder, plus regions.

    Args:
        config: Configuration of a BERT or a VisualBERT.
        region_width: Features of a region.

    Raises:
        UserError: If the configuration belongs to another model type.
    """

    def __init__(self, config: PreTrainedConfig, region_width: int) -> None:
        nn.Module.__init__(self)
        if config.model_type not in ("bert", "visual_bert"):
            raise UserError(
                f"the system visualbert takes a BERT or a VisualBERT as model.text, got a {config.model_type}"
            )
        own = VisualBertConfig()
        shared = {key: value for key, value in config.to_dict().items() if hasattr(own, key) and key != "model_type"}
        # Use BERT's padding id; VisualBERT's default is another token, whose embedding would never be trained.
        shared |= {"visual_embedding_dim": region_width, "pad_token_id": 0, "bypass_transformer": False}
        self.body = VisualBertModel(VisualBertConfig(**shared), add_pooling_layer=False)
        self.layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        self.width = config.hidden_size

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor, regions: Tensor, region_mask: Tensor
    ) -> Tensor:
        """Return last hidden states (B, L, C) of the sub-words, given regions (B, N, D) with `region_mask` (B, N)."""
        output = self.body(
            input_ids=input_ids,
            attention_mask=attention_mask,
            visual_embeds=regions,
            visual_attention_mask=region_mask.to(attention_mask.dtype),
        )
        hidden: Tensor = output.last_hidden_state[:, : input_ids.shape[1]]
        return hidden

    def fill(self, pretrained: PreTrainedModel, name: str, *, new_projection: bool) -> None:
        """Load the weights of a VisualBERT or a BERT.

        Raises:
            UserError: If weights are missing, or the projection of the regions does not fit.
        """
        state = pretrained.state_dict()
        projection = "embeddings.visual_projection."
        if pretrained.config.model_type == "bert":
            tables = {f"embeddings.visual_{table}.weight": f"embeddings.{table}.weight" for table in TABLES}
            state |= {ours: state[theirs].clone() for ours, theirs in tables.items()}
            new_projection = True
        own = self.body.state_dict()
        if new_projection:
            state |= {key: own[key] for key in own if key.startswith(projection)}
        read, given = (weights[f"{projection}weight"].shape[1] for weights in (state, own))
        if read != given:
            raise UserError(
                f"model.text: {name!r} reads regions of {read} features, but the image backbone has {given}; choose "
                "another backbone, or set model.reinit_visual_projection=true"
            )
        missing, _ = self.body.load_state_dict(state, strict=False)
        if missing:
            raise UserError(f"model.text: {name!r} lacks the weights {', '.join(missing[:5])}")


@register("visualbert")
class VisualBERT(System):
    """Early fusion: words and regions attend to each other in every layer; the head scores the word states."""

    config_class = VisualBERTConfig
    settings: VisualBERTConfig
    text_encoder: RegionEncoder
    vision: VisionBackbone

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        width = self.vision.widths["pooled"]
        self.text_encoder = RegionEncoder(config.text_config, width)
        self.region_norm = nn.LayerNorm(width) if self.settings.norm_regions else None
        self.finish(self.task.width(self.text_encoder.width))

    def make_text_encoder(self) -> None:
        """Return None: the encoder needs the width of the regions, so `__init__` creates it."""

    def fill_text_encoder(self, pretrained: PreTrainedModel, name: str) -> None:
        """See `System`."""
        self.text_encoder.fill(pretrained, name, new_projection=self.settings.reinit_visual_projection)

    def encode(self, batch: Mapping[str, Tensor]) -> Encoded:
        """Return the word states, encoded together with the regions; see `System`."""
        features = self.image_features(batch)
        rows, seen = [], []
        if self.settings.regions != "grid":
            rows.append(features.padded("pooled"))
            seen.append(features.seen["pooled"])
        if self.settings.regions != "pooled":
            rows.append(features.padded("grid")[:, 0])
            seen.append(features.seen["grid"].expand(-1, rows[-1].shape[1]))
        regions = torch.cat(rows, dim=1)
        if self.region_norm is not None:
            regions = self.region_norm(regions)
        hidden = self.text_encoder(batch["input_ids"], batch["attention_mask"], regions, torch.cat(seen, dim=1))
        return Encoded(*self.task.gather(hidden, batch, self.config), *self.semantic_image(batch, features))
