"""Optional logging to TensorBoard and Weights & Biases, which are not dependencies."""

from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, WandbCallback, integration_utils

from reference_models.config import Logger
from reference_models.errors import UserError


def check_logger(name: Logger) -> None:
    """Check that the package of a logger is installed.

    Raises:
        UserError: If it is not installed.
    """
    if name != "none" and not getattr(integration_utils, f"is_{name}_available")():
        raise UserError(f"training.log_to: {name} is not installed; pip install {name}, or remove the setting")


def make_logger(name: Logger, folder: Path) -> TrainerCallback:
    """Return the callback of a logger; TensorBoard writes to a subfolder of `folder`."""
    if name == "wandb":
        return WandbCallback()
    callback = TensorBoardCallback()
    callback.logging_dir = callback.logging_dir or str(folder / "tensorboard")
    return callback
