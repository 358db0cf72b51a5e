"""The settings of a run, as its YAML file and the command line write them."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from reference_models.errors import UserError
from reference_models.grounding.config import GroundingConfig


@dataclass
class DataConfig:
    """Where the samples are and how they become tensors.

    Args:
        format: "twitter" (named entities) or "mnre" (relations): the field's layout below `root`.
        root: folder of the data set.
        bad_images: what to do about an image or crop that is missing or broken: stop with an "error", go on without it
            ("blank"), or leave the sample out of the training ("drop"; where scores are computed, it is blanked); the
            last two count and name what they touched.
        long_samples: what to do about a relation whose entity lies behind the length limit: "error", or "drop"
            it from the training (counted; where scores are computed, it counts as missed).
        label_scheme: what is tagged for named entities: words ("bio"), or all sub-words as in older baselines ("x13":
            further tags for later sub-words of a word, both ends of a sentence, and padding).
        max_length: limit of a sentence in sub-words.
        image_size: side of the pictures in pixels; 224, and 32 for the `tiny` backbone.
        resize: how pictures become squares: "squash", or "centre-crop" as in the field's code (short side to 256, the
            middle 224; other sizes in proportion).
        max_crops: object crops of a sample at most.
        feature_cache: folder where the features of pictures are kept, so that each picture meets a frozen image
            backbone once for all epochs and runs; they are computed in float32 also under mixed precision. It needs
            `model.visual` and `model.freeze_image_backbone`; without it, pictures are decoded for every batch.
    """

    format: Literal["twitter", "mnre"] = "mnre"
    root: str = "data"
    bad_images: Literal["error", "blank", "drop"] = "error"
    long_samples: Literal["error", "drop"] = "error"
    label_scheme: Literal["bio", "x13"] = "bio"
    max_length: int = 80
    image_size: int = 224
    resize: Literal["squash", "centre-crop"] = "squash"
    max_crops: int = 3
    feature_cache: str | None = None

    def __post_init__(self) -> None:
        _check_at_least(self, "data", max_length=8, image_size=32, max_crops=1)


@dataclass
class ModelConfig:
    """What the model is made of.

    Args:
        text: hub name or local folder of a BERT- or RoBERTa-like encoder, or "tiny" (small BERT, vocabulary learnt
            here).
        tiny_vocabulary: sub-words that "tiny" learns from the training text.
        visual: whether the model sees pictures.
        vision: image backbone: resnet18/34/50/101/152, mobilenet_v2, or tiny.
        vision_weights: "imagenet" (torchvision's hub), "none" (random), or a local file.
        prefix: reading of Eq. 3: "paper" (crops; a 1 x 1 convolution and a gate per stage) or "release" (the whole
            picture too; an MLP over all stages).
        fusion: visual tokens as keys and values of each text layer ("prefix"), or as hidden states before the text's
            ("concat").
        attention: "sdpa" (fused kernels) or "eager" (step by step).
        image_signal: what the semantic loss compares with the text: the "pooled" last stage, or the class "logits".
        freeze_image_backbone: keep the backbone's weights and statistics.
        semantic_weight: lambda_sem of Eq. 17 and 19; 0 leaves the semantic loss out.
        attn_mixup: whether AttnMixup acts in training.
        mixup: keyword arguments of `attnmixup.AttnMixup` beyond its defaults.
        semantic: keyword arguments of `attnmixup.SemanticKLLoss` beyond its defaults.
        pair: what stands for each entity of a relation: the "mean" of the sub-words between its markers, or its opening
            "marker".
        tag_head: how words are tagged: together by a "crf", or each by itself by a "softmax".
        head_dropout: dropout before the linear layer of the head.
    """

    text: str = "bert-base-uncased"
    tiny_vocabulary: int = 2000
    visual: bool = True
    vision: str = "resnet50"
    vision_weights: str = "imagenet"
    prefix: Literal["paper", "release"] = "paper"
    fusion: Literal["prefix", "concat"] = "prefix"
    attention: Literal["sdpa", "eager"] = "sdpa"
    image_signal: Literal["pooled", "logits"] = "pooled"
    freeze_image_backbone: bool = False
    semantic_weight: float = 0.5
    attn_mixup: bool = True
    mixup: dict[str, Any] = field(default_factory=dict)
    semantic: dict[str, Any] = field(default_factory=dict)
    pair: Literal["mean", "marker"] = "mean"
    tag_head: Literal["crf", "softmax"] = "crf"
    head_dropout: float = 0.1

    def __post_init__(self) -> None:
        _check_at_least(self, "model", tiny_vocabulary=50, semantic_weight=0, head_dropout=0)
        if self.head_dropout >= 1:
            raise UserError(f"model.head_dropout is a share and must be below 1, got {self.head_dropout}")


@dataclass
class TrainingConfig:
    """How it is trained (section 4.2 of the paper).

    Args:
        epochs: passes over the training split.
        batch_size: samples that one process takes at once.
        accumulation: batches of a step; 2 of 8 give the gradient of 16 (AttnMixup still sees 8).
        learning_rate: peak rate of the text encoder, the image backbone, the prefix and the regularisers.
        text_learning_rate, vision_learning_rate, prefix_learning_rate, regulariser_learning_rate: peak rate of one of
            these alone; without it, `learning_rate`. The regularisers are AttnMixup and the semantic loss.
        head_learning_rate: peak rate of the output layer and, for tags, the CRF; without it, 5e-2 where there is a CRF
            and 1e-3 for other output layers.
        weight_decay: of AdamW; biases and norms have none.
        warmup: share of the steps over which the rates rise; they then fall linearly to 0.
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
        workers: processes that load pictures beside the training; 0 loads them in it.
        log_to: also log to "tensorboard", in the folder of the run, or to "wandb", whose package is to be installed.
    """

    epochs: int = 25
    batch_size: int = 16
    accumulation: int = 1
    learning_rate: float = 3e-5
    text_learning_rate: float | None = None
    vision_learning_rate: float | None = None
    prefix_learning_rate: float | None = None
    regulariser_learning_rate: float | None = None
    head_learning_rate: float | None = None
    weight_decay: float = 1e-2
    warmup: float = 0.06
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
        rates = {name: 0 for name, value in vars(self).items() if name.endswith("learning_rate") and value is not None}
        least = {"weight_decay": 0, "warmup": 0, "patience": 0, "checkpoint_steps": 0, "seed": 0, "workers": 0}
        _check_at_least(self, "training", epochs=1, batch_size=1, accumulation=1, **rates, **least)
        if self.warmup >= 1:
            raise UserError(f"training.warmup is a share of the steps and must be below 1, got {self.warmup}")


@dataclass
class RunConfig:
    """All settings of a run.

    Args:
        output: folder of the run; a new one, or that of a run with the same settings that was stopped.
        grounding: how `i2srm data crops`, and `predict` with a detector, make object crops.
    """

    output: str = "runs/i2srm"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    grounding: GroundingConfig = field(default_factory=GroundingConfig)

    def __post_init__(self) -> None:
        sections = {"data": self.data, "model": self.model, "grounding": self.grounding}
        named = {f"{name}.{key}": value for name, section in sections.items() for key, value in vars(section).items()}
        for key, value in {"output": self.output, **named}.items():
            # Python has half characters for such bytes. Neither YAML nor safetensors takes them.
            if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
                raise UserError(f"{key} must be UTF-8, got {value!r}; rename the folder, or work from inside it")
        frozen = self.model.visual and self.model.freeze_image_backbone
        if self.data.feature_cache is not None and not frozen:
            raise UserError(
                "data.feature_cache keeps the features of a frozen image backbone: it needs model.visual=true and "
                f"model.freeze_image_backbone=true, got {self.model.visual} and {self.model.freeze_image_backbone}"
            )


def _check_at_least(settings: object, section: str, **least: float) -> None:
    for name, bound in least.items():
        if not bound <= (value := getattr(settings, name)) < math.inf:
            raise UserError(f"{section}.{name} must be {bound} or more and finite, got {value}")
