"""Stops a training whose numbers are no longer finite, before they reach a checkpoint."""

import math
from pathlib import Path

from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from reference_models.errors import UserError
from reference_models.training.checkpoints import last_checkpoint


def largest_weight(model: nn.Module) -> float:
    """The largest absolute value among the parameters; NaN if one of them is."""
    return get_total_norm([parameter.detach() for parameter in model.parameters()], norm_type=math.inf).item()


def check_finite(value: float | Tensor, what: str, *, step: int, checkpoints: Path) -> None:
    """Check a number of the training.

    Args:
        value: a scalar.
        what: its name, for the message.
        step: number of the step that it belongs to.
        checkpoints: folder of the checkpoints, which are left as they are.

    Raises:
        UserError: it is infinite or NaN.
    """
    if math.isfinite(number := float(value)):
        return
    kept = last_checkpoint(checkpoints)
    rest = f"the last good checkpoint is {kept}" if kept else "there is no checkpoint yet"
    raise UserError(
        f"the training diverged: {what} of step {step} is {number}. Train again into another folder with lower rates "
        "(training.learning_rate, training.head_learning_rate), a longer training.warmup, or "
        f"training.precision=fp32; {rest}"
    )
