"""The configuration of a model: everything needed to rebuild it without the network."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

# What the code published with the paper meant to do, as in configs/mnre-release.yaml. The default is the paper itself.
RELEASE: dict[str, Any] = {
    "prefix": "release",
    "image_signal": "logits",
    "semantic": {"project": "image"},
    "mixup": {"preset": "release"},
}


@strict
class I2SRMConfig(PreTrainedConfig):
    """Configuration of `I2SRM`.

    Args:
        text_config: configuration of the text encoder; depth, width and heads of the visual prefix come from it.
        vision: name of the image backbone (`encoders.vision.BACKBONES`), or None for a model that reads text alone.
        task: name of a task, such as "ner" (tags of words) or "re" (softmax over relations); see `tasks.get_task`.
        pair: an entity of a relation is the "mean" of the sub-words between its markers, or its opening "marker".
        tag_head: how words are tagged: together by a "crf", or each by itself by a "softmax".
        labels: the tags or relations, in the order of their ids.
        semantic_weight: lambda_sem of Eq. 17 and 19; 0 leaves the semantic loss out.
        attn_mixup: whether AttnMixup acts in training.
        mixup: further keyword arguments of `attnmixup.AttnMixup`.
        prefix: reading of Eq. 3: "paper" or "release", see `encoders.prefix.VisualPrefix`.
        fusion: reading of Eq. 4: visual tokens as keys and values ("prefix") or as hidden states ("concat").
        attention: "sdpa" (fused kernels) or "eager" (step by step, gives the weights).
        image_signal: what the semantic loss compares with the text: the "pooled" last stage or the class "logits".
        semantic: further keyword arguments of `attnmixup.SemanticKLLoss`.
        freeze_image_backbone: keep the backbone's weights and batch statistics as they are.
        head_dropout: dropout before the linear layer of the head.
    """

    model_type = "i2srm"
    keys_to_ignore_at_inference = ["task_loss", "semantic_loss", "scores"]  # noqa: RUF012
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}  # noqa: RUF012

    text_config: PreTrainedConfig | dict[str, Any] | None = None
    vision: str | None = "resnet50"
    task: str = "re"
    pair: Literal["mean", "marker"] = "mean"
    tag_head: Literal["crf", "softmax"] = "crf"
    labels: list[str] | tuple[str, ...] = ()
    semantic_weight: float = 0.5
    attn_mixup: bool = True
    mixup: dict[str, Any] | None = None
    prefix: Literal["paper", "release"] = "paper"
    fusion: Literal["prefix", "concat"] = "prefix"
    attention: Literal["sdpa", "eager"] = "sdpa"
    image_signal: Literal["pooled", "logits"] = "pooled"
    semantic: dict[str, Any] | None = None
    freeze_image_backbone: bool = False
    head_dropout: float = 0.1
