"""Which parameter learns how fast, and by which optimizer."""

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
    """Every trainable parameter in exactly one group for an optimizer.

    Biases and the parameters of norms are not decayed, unless all are.

    Args:
        model: whose parameters are grouped by their names.
        rates: peak rate by the beginning of names, as in "head" or "head.crf"; the longest that fits counts.
        learning_rate: of every other parameter.
        weight_decay: of the weights.
        decay_all: whether it is that of biases and norms too.

    Returns:
        Groups with `name`, `params`, `lr` and `weight_decay`; none is empty.

    Raises:
        UserError: a beginning fits no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in rates:
        if not any(_begins(name, prefix) for name in names):
            parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
            raise UserError(
                f"training.learning_rates: no parameter's name begins with {prefix!r}; the parts are {parts}"
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
    """The optimizer of the settings, over `parameter_groups`."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum)
    return torch.optim.AdamW(groups, fused=True)


def inverse_schedule(step: int, *, steps_per_epoch: float, warmup_steps: int) -> float:
    """The factor of the peak rate after so many steps: a linear rise, then 1 / (1 + 0.05 x whole epochs)."""
    if step < warmup_steps:
        return step / warmup_steps
    return 1 / (1 + DECAY * int(step / steps_per_epoch))


def _begins(name: str, prefix: str) -> bool:
    return f"{name}.".startswith(f"{prefix}.")
