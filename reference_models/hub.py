"""Weights of torchvision's hub, read without executing what is in their file."""

from pathlib import Path

import torch
from huggingface_hub.constants import HF_HUB_OFFLINE
from torch import Tensor
from torchvision.models import WeightsEnum

from reference_models.errors import UserError


def hub_file(weights: WeightsEnum) -> Path:
    """Where torchvision keeps the file of these weights once it is downloaded."""
    return Path(torch.hub.get_dir(), "checkpoints", weights.url.rsplit("/", 1)[-1])


def hub_weights(weights: WeightsEnum, setting: str) -> dict[str, Tensor]:
    """The state dict of torchvision weights, from the hub's cache or downloaded into it.

    Args:
        weights: which, such as `ResNet50_Weights.IMAGENET1K_V1`.
        setting: the setting that asked for them, for the message of an error.

    Raises:
        UserError: they cannot be downloaded, HF_HUB_OFFLINE forbids it, or the file in the cache holds anything but
            tensors. Nothing in it is executed.
    """
    if HF_HUB_OFFLINE and not hub_file(weights).is_file():
        raise UserError(
            f"{setting}: torchvision's weights {weights} are not in {hub_file(weights)}, and HF_HUB_OFFLINE forbids to "
            "download them; name a local file of weights"
        )
    try:
        # By default torchvision unpickles whatever the file in the cache holds.
        state: dict[str, Tensor] = weights.get_state_dict(map_location="cpu", weights_only=True, check_hash=True)
    except OSError as error:
        raise UserError(
            f"{setting}: torchvision's weights {weights} cannot be downloaded to {hub_file(weights)} ({error}); name a "
            "local file of weights instead"
        ) from error
    except Exception as error:  # a damaged file can fail with almost any exception
        raise UserError(
            f"{setting}: expected torchvision's weights {weights} in {hub_file(weights)}; that file is damaged, or "
            "holds something other than tensors, and was not executed; delete it, and it is downloaded again"
        ) from error
    return state
