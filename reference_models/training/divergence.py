"""Check for divergence: stop training at non-finite numbers, before they reach a checkpoint."""

import math
from pathlib import Path

from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from reference_models.errors import UserError
from reference_models.training.checkpoints import last_checkpoint


def largest_weight(model: nn.Module) -> float:
    """Return the largest absolute value of all parameters; NaN if a parameter contains NaN."""
    return get_total_norm([parameter.detach() for parameter in model.parameters()], norm_type=math.inf).item()


def check_finite(value: float | Tensor, what: str, *, step: int, checkpoints: Path) -> None:
    """Check that a number of the training is finite.

    Args:
        value: A scalar.
        what: Its name, for the message.
        step: Step that the number belongs to, for the message.
        checkpoints: Folder of the checkpoints, for the message; complete checkpoints are not changed.

    Raises:
        UserError: If the number is infinite or NaN.
    """
    if math.isfinite(number := float(value)):
        return
    kept = last_checkpoint(checkpoints)
    rest = f"the last good checkpoint is {kept}" if kept else "there is no checkpoint yet"
    raise UserError(
        f"the training diverged: {what} of step {step} is {number}. Train again in another folder with lower learning "
        "rates (training.learning_rate, training.learning_rates), a longer training.warmup, or "
        f"training.precision=fp32; {rest}"
    )
