"""TensorBoard and Weights & Biases, which are asked for by a setting and are no dependencies."""

from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, WandbCallback, integration_utils

from reference_models.config import Logger
from reference_models.errors import UserError


def check_logger(name: Logger) -> None:
    """Check that the package of a logger is installed.

    Raises:
        UserError: it is not.
    """
    if name != "none" and not getattr(integration_utils, f"is_{name}_available")():
        raise UserError(f"training.log_to: {name} is not installed; pip install {name}, or leave it out")


def make_logger(name: Logger, folder: Path) -> TrainerCallback:
    """The callback of a logger; TensorBoard writes into a folder below that of the run."""
    if name == "wandb":
        return WandbCallback()
    callback = TensorBoardCallback()
    callback.logging_dir = callback.logging_dir or str(folder / "tensorboard")
    return callback
