"""The settings of a run, as its YAML file and the command line write them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from reference_models.config.grounding import GroundingConfig
from reference_models.errors import UserError


@dataclass
class DataConfig:
    """Where the samples are and how they become tensors.

    Args:
        format: how the files below `root` are laid out: "twitter" (named entities) or "mnre" (relations), as the field
            shares them; "conll" (named entities, without images); "jsonl" (one's own data, of either task);
            "flickr30k_entities"; or the name of a registered format.
        root: folder of the data set.
        task: "ner" (named entities), "re" (relations), or the name of a registered task; without it, that of the data.
        no_relation: the relation that stands for none and has no part in the scores; null where each pair has one.
        bad_images: what to do about an image or crop that is missing or broken: stop with an "error", go on without it
            ("blank"), or leave the sample out of the training ("drop"; where scores are computed, it is blanked); the
            last two count and name what they touched.
        long_samples: what to do about a relation whose entity lies behind the length limit: "error", or "drop"
            it from the training (counted; where scores are computed, it counts as missed).
        label_scheme: what is tagged for named entities: words ("bio"), or all sub-words as in older baselines ("x13":
            further tags for later sub-words of a word, both ends of a sentence, and padding).
        max_length: limit of a sentence in sub-words.
        image_size: side of the images in pixels; 224, and 32 for the `tiny` backbone.
        resize: how images become squares: "squash", or "centre-crop" as in the field's code (short side to 256, the
            middle 224; other sizes in proportion).
        max_crops: object crops of a sample at most.
        feature_cache: folder where the features of images are kept, so that each image meets a frozen image
            backbone once for all epochs and runs; they are computed in float32 also under mixed precision. It needs
            `model.freeze_image_backbone`; without it, images are decoded for every batch.
    """

    format: str = "mnre"
    root: str = "data"
    task: str | None = None
    no_relation: str | None = "None"
    bad_images: Literal["error", "blank", "drop"] = "error"
    long_samples: Literal["error", "drop"] = "error"
    label_scheme: Literal["bio", "x13"] = "bio"
    max_length: int = 80
    image_size: int = 224
    resize: Literal["squash", "centre-crop"] = "squash"
    max_crops: int = 3
    feature_cache: str | None = None

    def __post_init__(self) -> None:
        check_at_least(self, "data", max_length=8, image_size=32, max_crops=1)


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
        freeze_image_backbone: keep the backbone's weights and statistics.
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
    freeze_image_backbone: bool = False
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


@dataclass
class TrainingConfig:
    """How it is trained (section 4.2 of the paper).

    Args:
        epochs: passes over the training split.
        batch_size: samples that one process takes at once.
        accumulation: batches of a step; 2 of 8 give the gradient of 16 (AttnMixup still sees 8).
        learning_rate: peak rate of all that `learning_rates` does not name.
        learning_rates: peak rates by the beginning of parameters' names, as in {text_encoder: 1e-5, head.crf: 1e-2};
            the longest beginning counts. Without one for it, a head learns at 5e-2 where it has a CRF, and at 1e-3
            where it has none; a system can have further rates of its own.
        optimizer: "adamw" or "sgd".
        momentum: of sgd.
        weight_decay: of the weights; biases and norms have none.
        warmup: share of the steps over which the rates rise.
        schedule: how the rates go on after the warm-up: they fall to 0 ("linear", "cosine"), stay ("constant"), or are
            divided by 1 + 0.05 x whole epochs ("inverse").
        clip: largest norm of the gradient, to which longer ones are scaled; 0 for no limit.
        precision: "bf16" or "fp16" for mixed precision; "fp16" needs an accelerator.
        fast_float32: faster float32 products, about twice as fast on many CPUs; refused where the machine would trade
            accuracy for it.
        fast_dropout: cheaper random numbers for dropout on a CPU, where they take a tenth of a step; a seed then gives
            another run than without it.
        compile: compile the text encoder by `torch.compile`, for GPUs; it begins with a minute of compiling, and CPUs
            lose by it.
        gradient_checkpointing: compute the layers of the text encoder twice instead of keeping their activations.
        group_by_length: make batches of sentences of about one length.
        keep: epoch whose weights are kept: the "best" on validation (the first of equals), or the "last".
        patience: epochs without a better F1 on validation after which the training stops early; 0 for never. The rates
            still fall as if all epochs came.
        checkpoint_steps: steps between two checkpoints; 0 for one at the end of each epoch, which there is in any case.
        seed: of everything random.
        workers: processes that load images beside the training; 0 loads them in it.
        log_to: also log to "tensorboard", in the folder of the run, or to "wandb", whose package is to be installed.
    """

    epochs: int = 25
    batch_size: int = 16
    accumulation: int = 1
    learning_rate: float = 3e-5
    learning_rates: dict[str, float] = field(default_factory=dict)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.0
    weight_decay: float = 1e-2
    warmup: float = 0.06
    schedule: Literal["linear", "cosine", "constant", "inverse"] = "linear"
    clip: float = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    fast_float32: bool = False
    fast_dropout: bool = False
    compile: bool = False
    gradient_checkpointing: bool = False
    group_by_length: bool = False
    keep: Literal["best", "last"] = "best"
    patience: int = 0
    checkpoint_steps: int = 0
    seed: int = 0
    workers: int = 0
    log_to: Literal["none", "tensorboard", "wandb"] = "none"

    def __post_init__(self) -> None:
        least = {"learning_rate": 0, "momentum": 0, "weight_decay": 0, "warmup": 0, "clip": 0}
        least |= {"patience": 0, "checkpoint_steps": 0, "seed": 0, "workers": 0}
        check_at_least(self, "training", epochs=1, batch_size=1, accumulation=1, **least)
        for prefix, rate in self.learning_rates.items():
            if not 0 <= rate < math.inf:
                raise UserError(f"training.learning_rates.{prefix} must be 0 or more and finite, got {rate}")
        if self.warmup >= 1:
            raise UserError(f"training.warmup is a share of the steps and must be below 1, got {self.warmup}")


@dataclass
class RunConfig:
    """All settings of a run.

    Args:
        system: name of the system, see `systems.get_system`.
        model: the settings of that system.
        output: folder of the run; a new one, or that of a run with the same settings that was stopped.
        grounding: how `i2srm data crops`, and `predict` with a detector, make object crops.
    """

    system: str
    model: SystemConfig
    output: str = "runs/i2srm"
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    grounding: GroundingConfig = field(default_factory=GroundingConfig)

    def __post_init__(self) -> None:
        sections = {"data": self.data, "model": self.model, "grounding": self.grounding}
        named = {f"{name}.{key}": value for name, section in sections.items() for key, value in vars(section).items()}
        for key, value in {"output": self.output, **named}.items():
            # Python has half characters for such bytes. Neither YAML nor safetensors takes them.
            if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
                raise UserError(f"{key} must be UTF-8, got {value!r}; rename the folder, or work from inside it")
        if self.data.feature_cache is not None and not (self.reads_images and self.model.freeze_image_backbone):
            raise UserError(
                "data.feature_cache keeps the features of a frozen image backbone: it needs a system that reads images "
                f"and model.freeze_image_backbone=true, got system {self.system} and {self.model.freeze_image_backbone}"
            )

    @property
    def reads_images(self) -> bool:
        """Whether training reads images, if only for the semantic loss."""
        return bool(self.model.image_views)


def check_at_least(settings: object, section: str, **least: float) -> None:
    """Check numbers against their least values.

    Raises:
        UserError: one is below, or not finite.
    """
    for name, bound in least.items():
        if not bound <= (value := getattr(settings, name)) < math.inf:
            raise UserError(f"{section}.{name} must be {bound} or more and finite, got {value}")
