"""The settings that all systems have; each declares its own in a subclass, in its own file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from reference_models.config.checks import check_at_least
from reference_models.errors import UserError

View = Literal["cells", "grid", "pooled", "logits"]
Slots = Literal["whole", "crops", "all"]
SLOTS: dict[Slots, slice] = {"whole": slice(0, 1), "crops": slice(1, None), "all": slice(None)}


@dataclass(frozen=True)
class Inputs:
    """What a system reads of a sample, so what the processor must provide.

    Attributes:
        characters: the characters of each word.
        images: which views of which images: "cells" (four backbone stages, pooled to 2 x 2), "grid" (the last stage, at
            most 7 x 7), "pooled" (its mean) or "logits" (of the 1000 classes of ImageNet), of the "whole" image, of its
            object "crops", or of "all" of these.
        texts: kinds of texts about the image, as in "caption", in the order in which they follow the sentence.
        text_length: sub-words of these texts at most, the one that ends them included.
    """

    characters: bool = False
    images: Mapping[View, Slots] = field(default_factory=dict)
    texts: Sequence[str] = ()
    text_length: int = 0

    @property
    def crops_alone(self) -> bool:
        """Whether an image is seen by its crops alone, so that one without crops tells the model nothing."""
        return set(self.images.values()) == {"crops"}


def path_setting(default: str) -> Any:
    """A setting of a system that may name a local file or folder, which is then part of what identifies a run."""
    return field(default=default, metadata={"path": True})


@dataclass
class SystemConfig:
    """Settings that all systems have; a system declares its own in a subclass, with its own defaults.

    Args:
        vision: image backbone: resnet18/34/50/101/152, mobilenet_v2, or tiny.
        vision_weights: "imagenet" (torchvision's hub), "none" (random), or a local file.
        image_signal: what the semantic loss compares with the text: the "pooled" last stage, or the class "logits".
        stage_pooling: how stages of the backbone become 2 x 2 cells: of the "whole" map, or "floor", without the last
            row and column of an odd map, as in published code.
        freeze_image_backbone: keep the backbone's weights and statistics.
        backbone_train_mode: let a frozen backbone normalise by the statistics of each batch in training, and keep a
            running mean of them for evaluation, as published code does where it freezes the weights alone.
        semantic_weight: lambda_sem of Eq. 17 and 19; 0 leaves the semantic loss out.
        semantic: keyword arguments of `attnmixup.SemanticKLLoss` beyond its defaults.
        attn_mixup: whether AttnMixup acts in training.
        mixup: keyword arguments of `attnmixup.AttnMixup` beyond its defaults.
        pair: what stands for each entity of a relation: the "mean" of the sub-words between its markers, or its opening
            "marker".
        tag_head: how words are tagged: together by a "crf", or each by itself by a "softmax".
        head_dropout: dropout before the linear layer of the head.
    """

    vision: str = "resnet50"
    vision_weights: str = path_setting("imagenet")
    image_signal: Literal["pooled", "logits"] = "pooled"
    stage_pooling: Literal["whole", "floor"] = "whole"
    freeze_image_backbone: bool = False
    backbone_train_mode: bool = False
    semantic_weight: float = 0.0
    semantic: dict[str, Any] = field(default_factory=dict)
    attn_mixup: bool = False
    mixup: dict[str, Any] = field(default_factory=dict)
    pair: Literal["mean", "marker"] = "mean"
    tag_head: Literal["crf", "softmax"] = "crf"
    head_dropout: float = 0.1

    def __post_init__(self) -> None:
        check_at_least(self, "model", semantic_weight=0, head_dropout=0)
        if self.head_dropout >= 1:
            raise UserError(f"model.head_dropout is a share and must be below 1, got {self.head_dropout}")
        if self.backbone_train_mode and not self.freeze_image_backbone:
            raise UserError(
                "model.backbone_train_mode is for a frozen image backbone: set model.freeze_image_backbone=true, or "
                "leave it out, because a backbone that learns is in training mode anyway"
            )

    @property
    def inputs(self) -> Inputs:
        """What the system reads to predict; a system that reads more than sub-words overrides it."""
        return Inputs()

    @property
    def image_views(self) -> dict[View, Slots]:
        """The views that training reads: those of `inputs`, and the whole image's for the semantic loss."""
        views = dict(self.inputs.images)
        if self.semantic_weight > 0:
            views[self.image_signal] = "all" if views.get(self.image_signal, "whole") != "whole" else "whole"
        return views

    def local_paths(self) -> dict[str, str]:
        """The settings that name a file or folder that exists, by their names."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("path")}
        if not self.image_views:
            del named["vision_weights"]
        return {name: value for name, value in named.items() if Path(value).exists()}


@dataclass
class TextSystemConfig(SystemConfig):
    """Settings of the systems that have a text encoder of transformers.

    Args:
        text: hub name or local folder of a BERT- or RoBERTa-like encoder, or "tiny" (small BERT, vocabulary learnt
            here).
        tiny_vocabulary: sub-words that "tiny" learns from the training text.
    """

    text: str = path_setting("bert-base-uncased")
    tiny_vocabulary: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, "model", tiny_vocabulary=50)


@dataclass
class WordSystemConfig(SystemConfig):
    """Settings of the systems that read whole words, in lower case.

    Args:
        word_vectors: text file of vectors as GloVe has them, a word and its numbers a line; "none" for random ones.
            With it, all its words that occur in any split are known.
        min_count: how often a word must occur in the training sentences to be known without a vector; others are one
            unknown word.
    """

    word_vectors: str = path_setting("none")
    min_count: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, "model", min_count=1)
