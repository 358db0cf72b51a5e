"""Check that the optimizers hold all trainable parameters."""

import warnings

from torch import nn
from torch.optim import Optimizer


def missing_parameters(module: nn.Module, *optimizers: Optimizer) -> list[str]:
    """List the trainable parameters of a module that no parameter group of its optimizers holds.

    Code that selects parameters by name often leaves out the parameters of a mixer, which then never learns.

    Args:
        module: The whole model.
        *optimizers: Its optimizers.

    Returns:
        Names, in the order of ``module.named_parameters()``; empty if none is missing.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> missing_parameters(model, torch.optim.SGD(model[0].parameters(), lr=0.1))
        ['1.weight', '1.bias']
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    held = {id(parameter) for group in groups for parameter in group["params"]}
    named = module.named_parameters()
    return [name for name, parameter in named if parameter.requires_grad and id(parameter) not in held]


def warn_of_missing_parameters(module: nn.Module, *optimizers: Optimizer) -> None:
    """Warn if :func:`missing_parameters` finds any; the warning names up to five."""
    missing = missing_parameters(module, *optimizers)
    if missing:
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        warnings.warn(
            f"{len(missing)} trainable parameters are not in the optimizer and will not learn: {names}.", stacklevel=3
        )
