"""Builds a model with pre-trained weights; only this file reads weights from the hub or from local files."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision import models as torchvision_models
from transformers import AutoModel, BertConfig, PreTrainedConfig, PreTrainedModel

from reference_models.config import ModelConfig
from reference_models.data.tokenizer import SPECIAL
from reference_models.encoders.text import readable_length
from reference_models.encoders.vision import VisionBackbone
from reference_models.errors import UserError
from reference_models.hub import hub_weights
from reference_models.systems.configuration import I2SRMConfig
from reference_models.systems.i2srm import I2SRM
from reference_models.tasks.processor import Processor

CLASSIFIERS = ("fc.", "classifier.")
TINY_TEXT = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256}


def build_model(settings: ModelConfig, processor: Processor) -> I2SRM:
    """An `I2SRM` for the processor's task and labels, with the weights that `settings` names.

    Args:
        settings: what the model is made of.
        processor: of its task, labels and vocabulary.

    Raises:
        UserError: weights that cannot be found or do not fit, an encoder that cannot take a visual prefix.
    """
    vocabulary = len(processor.tokenizer)
    pretrained = None if settings.text == "tiny" else _load_text(settings.text, vocabulary)
    text_config: PreTrainedConfig = pretrained.config if pretrained is not None else tiny_text_config(vocabulary)
    readable = readable_length(text_config)
    if readable is not None and processor.max_length > readable:
        raise UserError(
            f"data.max_length is {processor.max_length}, and the text encoder {settings.text!r} reads {readable} "
            f"sub-words at most; set data.max_length to {readable} or less"
        )
    config = I2SRMConfig(
        text_config=text_config,
        vision=settings.vision if settings.visual else None,
        task=processor.task.name,
        pair=settings.pair,
        tag_head=settings.tag_head,
        labels=processor.task.labels,
        semantic_weight=settings.semantic_weight,
        attn_mixup=settings.attn_mixup,
        mixup=settings.mixup,
        prefix=settings.prefix,
        fusion=settings.fusion,
        attention=settings.attention,
        image_signal=settings.image_signal,
        semantic=settings.semantic,
        freeze_image_backbone=settings.freeze_image_backbone,
        head_dropout=settings.head_dropout,
    )
    try:
        model = I2SRM(config)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, UserError) else UserError(f"model.mixup or model.semantic: {error}") from error
    if pretrained is not None:
        body = model.text.body
        missing, _ = body.load_state_dict(pretrained.state_dict(), strict=False)
        if missing:
            raise UserError(f"model.text: {settings.text!r} lacks the weights {', '.join(missing[:5])}")
    if settings.visual and settings.vision != "tiny" and settings.vision_weights != "none":
        _fill_backbone(model.vision, settings.vision, settings.vision_weights)
    return model


def tiny_text_config(vocabulary: int) -> BertConfig:
    """A BERT small enough to learn from scratch on a CPU in a minute."""
    return BertConfig(
        vocab_size=vocabulary, max_position_embeddings=160, pad_token_id=list(SPECIAL).index("pad_token"), **TINY_TEXT
    )


def _load_text(name: str, vocabulary: int) -> PreTrainedModel:
    try:
        model: PreTrainedModel = AutoModel.from_pretrained(name, dtype=torch.float32)
    except Exception as error:  # a damaged file can fail with almost any exception
        reason = str(error).split("\n")[0]
        raise UserError(f"model.text: no encoder could be loaded from {name!r} ({reason})") from error
    if vocabulary > model.config.vocab_size:
        model.resize_token_embeddings(vocabulary)
    return model


def _fill_backbone(backbone: VisionBackbone, name: str, weights: str) -> None:
    wanted = backbone.body.state_dict()
    state = _read_weights(name, weights)
    extra = {key for key in state if not key.startswith(CLASSIFIERS)} - set(wanted)
    missing = {key for key in wanted if not key.endswith("num_batches_tracked")} - set(state)  # older files lack those
    wrong = {key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape}
    if odd := sorted(extra | missing | wrong):
        raise UserError(f"model.vision_weights: {weights} does not fit {name}: {', '.join(odd[:3])}")
    backbone.body.load_state_dict({key: value for key, value in state.items() if key in wanted}, strict=False)


def _read_weights(name: str, weights: str) -> dict[str, Tensor]:
    if weights == "imagenet":
        return hub_weights(torchvision_models.get_model_weights(name)["IMAGENET1K_V1"], "model.vision_weights")
    path = Path(weights)
    if not path.is_file():
        raise UserError(f'model.vision_weights: expected "imagenet", "none" or a file of weights, got {weights!r}')
    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail with almost any exception
        raise UserError(f"model.vision_weights: {path} is no readable file of weights, and was not executed") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"model.vision_weights: expected {path} to hold a dict of names to tensors (a state_dict)")
    return state
