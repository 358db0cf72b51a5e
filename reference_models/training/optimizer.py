"""Parameter groups, optimizer and learning rate schedule."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from reference_models.config import TrainingConfig
from reference_models.errors import UserError

NORMS = (nn.LayerNorm, nn.BatchNorm2d, nn.GroupNorm)
DECAY = 0.05  # of the inverse schedule (Ma and Hovy, ACL 2016)


def parameter_groups(
    model: nn.Module, rates: Mapping[str, float], *, learning_rate: float, weight_decay: float, decay_all: bool = False
) -> list[dict[str, Any]]:
    """Assign every trainable parameter to exactly one optimizer group.

    Biases and parameters of norms have no weight decay, unless `decay_all` is set.

    Args:
        model: Model whose parameters are grouped by name.
        rates: Peak learning rates by prefix of the parameter name, such as "head" or "head.crf"; the longest matching
            prefix wins.
        learning_rate: Peak learning rate of all other parameters.
        weight_decay: Weight decay of the weights.
        decay_all: Apply weight decay also to biases and norms.

    Returns:
        Non-empty groups with `name`, `params`, `lr` and `weight_decay`.

    Raises:
        UserError: If a prefix matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in rates:
        if not any(_begins(name, prefix) for name in names):
            parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
            raise UserError(
                f"training.learning_rates: no parameter name starts with {prefix!r}; the top-level modules are {parts}"
            )
    no_decay = {
        id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)
    }
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = max((prefix for prefix in rates if _begins(name, prefix)), key=len, default="")
        decayed = decay_all or not (id(parameter) in no_decay or name.endswith("bias"))
        key = (part or "others") if decayed else f"{part or 'others'}, no decay"
        group = {"name": key, "params": [], "lr": rates.get(part, learning_rate)}
        group["weight_decay"] = weight_decay if decayed else 0.0
        groups.setdefault(key, group)["params"].append(parameter)
    return list(groups.values())


def make_optimizer(settings: TrainingConfig, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    """Create the optimizer of the settings for groups from `parameter_groups`."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum)
    return torch.optim.AdamW(groups, fused=True)


def inverse_schedule(step: int, *, steps_per_epoch: float, warmup_steps: int) -> float:
    """Return the factor of the peak learning rate: linear warm-up, then 1 / (1 + 0.05 x completed epochs)."""
    if step < warmup_steps:
        return step / warmup_steps
    return 1 / (1 + DECAY * int(step / steps_per_epoch))


def _begins(name: str, prefix: str) -> bool:
    return f"{name}.".startswith(f"{prefix}.")
