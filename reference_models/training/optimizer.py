"""Which parameter learns how fast."""

from typing import Any

from torch import nn

NORMS = (nn.LayerNorm, nn.BatchNorm2d, nn.GroupNorm)


def parameter_groups(
    model: nn.Module, *, learning_rate: float, head_learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Every trainable parameter in exactly one group for AdamW.

    The head (`model.head`: CRF and output layer) has its own rate, without which the transitions barely move. Biases and
    the parameters of norms are not decayed.

    Returns:
        Groups with `name`, `params`, `lr` and `weight_decay`; none is empty.
    """
    no_decay = {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)}
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, rate = ("head", head_learning_rate) if name.startswith("head.") else ("body", learning_rate)
        decayed = not (id(parameter) in no_decay or name.endswith("bias"))
        key = part if decayed else f"{part}, no decay"
        group = {"name": key, "params": [], "lr": rate, "weight_decay": weight_decay if decayed else 0.0}
        groups.setdefault(key, group)["params"].append(parameter)
    return list(groups.values())
