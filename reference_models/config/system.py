"""Settings shared by all systems; each system adds its own in a subclass, in its own file."""

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
    """The parts of a sample that a system reads and the processor must provide.

    Attributes:
        characters: Whether the system reads the characters of each word.
        images: Maps views to images. Views: "cells" (four backbone stages, pooled to 2 x 2), "grid" (the last stage, at
            most 7 x 7), "pooled" (its mean) or "logits" (of the 1000 ImageNet classes). Images: the "whole" image, its
            object "crops", or "all" of these.
        texts: Kinds of texts about the image, such as "caption", in the order in which they follow the sentence.
        text_length: Maximum number of sub-words of these texts, including the end token.
    """

    characters: bool = False
    images: Mapping[View, Slots] = field(default_factory=dict)
    texts: Sequence[str] = ()
    text_length: int = 0

    @property
    def crops_alone(self) -> bool:
        """Whether the system reads only the crops of an image; without crops, the image has no effect."""
        return set(self.images.values()) == {"crops"}


def path_setting(default: str) -> Any:
    """Declare a setting that can be a local file or folder, whose content is then part of the identity of a run."""
    return field(default=default, metadata={"path": True})


@dataclass
class SystemConfig:
    """Settings shared by all systems; a system adds its own in a subclass, with its own defaults.

    Args:
        vision: Image backbone: resnet18/34/50/101/152, mobilenet_v2, or tiny.
        vision_weights: "imagenet" (from torchvision), "none" (random), or a local file.
        image_signal: Image vector that the semantic loss compares with the text: the "pooled" last stage, or the class
            "logits".
        stage_pooling: How backbone stages are pooled to 2 x 2 cells: over the "whole" map, or "floor", which ignores
            the last row and column of an odd map, as in published code.
        freeze_image_backbone: Do not train the weights and statistics of the backbone.
        backbone_train_mode: Let a frozen backbone normalise by mini-batch statistics in training and update its running
            statistics for evaluation, as published code does when it freezes only the weights.
        semantic_weight: lambda_sem of Eq. 17 and 19; 0 disables the semantic loss.
        semantic: Keyword arguments of `attnmixup.SemanticKLLoss` that differ from its defaults.
        attn_mixup: Use AttnMixup in training.
        mixup: Keyword arguments of `attnmixup.AttnMixup` that differ from its defaults.
        pair: Vector of each entity of a relation: the "mean" of the sub-words between its markers, or its opening
            "marker".
        tag_head: How words are tagged: jointly with a "crf", or independently with a "softmax".
        head_dropout: Dropout before the linear layer of the head.
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
            raise UserError(f"model.head_dropout is a fraction and must be below 1, got {self.head_dropout}")
        if self.backbone_train_mode and not self.freeze_image_backbone:
            raise UserError(
                "model.backbone_train_mode is for a frozen image backbone: set model.freeze_image_backbone=true, or "
                "remove it, because a trainable backbone is in training mode anyway"
            )

    @property
    def inputs(self) -> Inputs:
        """Parts of a sample needed for prediction. A system that reads more than sub-words overrides this."""
        return Inputs()

    @property
    def image_views(self) -> dict[View, Slots]:
        """Image views needed for training: those of `inputs`, and the whole image for the semantic loss."""
        views = dict(self.inputs.images)
        if self.semantic_weight > 0:
            views[self.image_signal] = "all" if views.get(self.image_signal, "whole") != "whole" else "whole"
        return views

    def local_paths(self) -> dict[str, str]:
        """Return the settings whose value is an existing file or folder, by name."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("path")}
        if not self.image_views:
            del named["vision_weights"]
        return {name: value for name, value in named.items() if Path(value).exists()}


@dataclass
class TextSystemConfig(SystemConfig):
    """Settings of systems with a text encoder from transformers.

    Args:
        text: Hub name or local folder of a BERT- or RoBERTa-like encoder, or "tiny" (a small BERT whose vocabulary is
            learned from the training sentences).
        tiny_vocabulary: Vocabulary size of "tiny" in sub-words.
    """

    text: str = path_setting("bert-base-uncased")
    tiny_vocabulary: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, "model", tiny_vocabulary=50)


@dataclass
class WordSystemConfig(SystemConfig):
    """Settings of systems that read whole words, in lower case.

    Args:
        word_vectors: Text file of word vectors in GloVe format, one word and its numbers per line; "none" for random
            vectors. Words of the file that occur in any split become part of the vocabulary.
        min_count: Minimum number of occurrences in the training sentences for a word without a vector; rarer words
            share one unknown-word token.
    """

    word_vectors: str = path_setting("none")
    min_count: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, "model", min_count=1)
