"""Pre-trained torchvision weights, loaded without executing code from their files."""

from pathlib import Path

import torch
from huggingface_hub.constants import HF_HUB_OFFLINE
from torch import Tensor
from torchvision.models import WeightsEnum

from reference_models.errors import UserError


def hub_file(weights: WeightsEnum) -> Path:
    """Return the path of the weights in torchvision's cache."""
    return Path(torch.hub.get_dir(), "checkpoints", weights.url.rsplit("/", 1)[-1])


def hub_weights(weights: WeightsEnum, setting: str) -> dict[str, Tensor]:
    """Load a state dict of torchvision weights from the hub's cache, or download it into the cache.

    Args:
        weights: The weights, such as `ResNet50_Weights.IMAGENET1K_V1`.
        setting: Name of the setting that requests them, for error messages.

    Returns:
        Tensors on the CPU, by their names in the state dict.

    Raises:
        UserError: If the weights cannot be downloaded, HF_HUB_OFFLINE forbids the download, or the file in the cache
            holds anything but tensors. Nothing in the file is executed.
    """
    if HF_HUB_OFFLINE and not hub_file(weights).is_file():
        raise UserError(
            f"{setting}: torchvision's weights {weights} are not in {hub_file(weights)}, and HF_HUB_OFFLINE forbids "
            "the download; give a local file of weights"
        )
    try:
        # Without weights_only, torchvision unpickles the file, which can execute code.
        state: dict[str, Tensor] = weights.get_state_dict(map_location="cpu", weights_only=True, check_hash=True)
    except OSError as error:
        raise UserError(
            f"{setting}: torchvision's weights {weights} cannot be downloaded to {hub_file(weights)} ({error}); give a "
            "local file of weights instead"
        ) from error
    except Exception as error:  # a damaged file can fail with almost any exception
        raise UserError(
            f"{setting}: expected torchvision's weights {weights} in {hub_file(weights)}, but that file is damaged or "
            "holds something other than tensors; it was not executed; delete it to download it again"
        ) from error
    return state
