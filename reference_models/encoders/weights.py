"""Pre-trained weights of encoders, loaded from the hub or from local files."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision import models as torchvision_models
from transformers import AutoModel, BertConfig, PreTrainedModel

from reference_models.data.tokenizer import SPECIAL
from reference_models.encoders.text import TextEncoder
from reference_models.encoders.vision import CLASSIFIERS, VisionBackbone
from reference_models.errors import UserError
from reference_models.hub import hub_weights


def tiny_text_config(vocabulary: int) -> BertConfig:
    """Return the configuration of a BERT that is small enough to train from scratch on a CPU in a minute."""
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=160,
        pad_token_id=list(SPECIAL).index("pad_token"),
    )


def load_text(name: str, vocabulary: int) -> PreTrainedModel:
    """Load a text encoder with its weights; added tokens get new embeddings, drawn as when a model is initialised.

    Args:
        name: Hub name or local folder.
        vocabulary: Number of tokens of its tokenizer, including added tokens.

    Returns:
        The encoder, in float32.

    Raises:
        UserError: If there is no encoder of that name or its files are damaged.
    """
    try:
        model: PreTrainedModel = AutoModel.from_pretrained(name, dtype=torch.float32)
    except Exception as error:  # a damaged file can fail with almost any exception
        reason = str(error).split("\n")[0]
        raise UserError(f"model.text: no encoder could be loaded from {name!r} ({reason})") from error
    if vocabulary > model.config.vocab_size:
        # By default all new rows would be nearly the same vector, the mean of the others.
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    return model


def fill_text(encoder: TextEncoder, pretrained: PreTrainedModel, name: str) -> None:
    """Copy the weights of `pretrained` into an encoder of the same configuration.

    Raises:
        UserError: If weights are missing.
    """
    missing, _ = encoder.body.load_state_dict(pretrained.state_dict(), strict=False)
    if missing:
        raise UserError(f"model.text: {name!r} lacks the weights {', '.join(missing[:5])}")


def fill_backbone(backbone: VisionBackbone, weights: str) -> None:
    """Load pre-trained weights into a backbone.

    Args:
        backbone: The backbone, changed in place.
        weights: "imagenet" (torchvision's hub), or a local file.

    Raises:
        UserError: If the weights do not exist or do not fit, or the file is damaged or holds anything but tensors.
    """
    wanted = backbone.body.state_dict()
    state = _read_weights(backbone.name, weights)
    extra = {key for key in state if not key.startswith(CLASSIFIERS)} - set(wanted)
    missing = {key for key in wanted if not key.endswith("num_batches_tracked")} - set(state)  # missing in older files
    wrong = {key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape}
    if odd := sorted(extra | missing | wrong):
        raise UserError(f"model.vision_weights: {weights} does not fit {backbone.name}: {', '.join(odd[:3])}")
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
        raise UserError(f"model.vision_weights: {path} is not a readable weights file; it was not executed") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"model.vision_weights: expected {path} to hold a dict of names to tensors (a state_dict)")
    return state
