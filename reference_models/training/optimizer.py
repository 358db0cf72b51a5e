"""Which parameter learns how fast."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from reference_models.config import TrainingConfig
from reference_models.tasks.heads import LinearHead

NORMS = (nn.LayerNorm, nn.BatchNorm2d, nn.GroupNorm)
# The parts of a model by the name of the module they stand in; what has another name is a part of its own.
PARTS = {"head": "heads", "mixer": "regularisers", "semantic": "regularisers"}


def learning_rates(settings: TrainingConfig, head: LinearHead) -> dict[str, float]:
    """The peak rate of each part that has its own; that of the head is its own default where the settings name none."""
    rates = {
        "text": settings.text_learning_rate,
        "vision": settings.vision_learning_rate,
        "prefix": settings.prefix_learning_rate,
        "heads": head.learning_rate if settings.head_learning_rate is None else settings.head_learning_rate,
        "regularisers": settings.regulariser_learning_rate,
    }
    return {part: rate for part, rate in rates.items() if rate is not None}


def parameter_groups(
    model: nn.Module, rates: Mapping[str, float], *, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Every trainable parameter in exactly one group for AdamW.

    Biases and the parameters of norms are not decayed.

    Args:
        model: its direct children are its parts: text, vision, prefix, heads (output layer and CRF), regularisers,
            or by their own name.
        rates: peak rate by part.
        learning_rate: of every other part.
        weight_decay: of the weights.

    Returns:
        Groups with `name`, `params`, `lr` and `weight_decay`; none is empty.
    """
    no_decay = {
        id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)
    }
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        child = name.split(".")[0]
        part = PARTS.get(child, child)
        decayed = not (id(parameter) in no_decay or name.endswith("bias"))
        key = part if decayed else f"{part}, no decay"
        group = {"name": key, "params": [], "lr": rates.get(part, learning_rate)}
        group["weight_decay"] = weight_decay if decayed else 0.0
        groups.setdefault(key, group)["params"].append(parameter)
    return list(groups.values())
