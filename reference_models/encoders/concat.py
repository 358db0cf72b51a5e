"""The letter of Eq. 4: visual tokens as hidden states before the text in each layer, by hooks on the layers."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from reference_models.encoders.prefix import PrefixStates


def find_layers(body: nn.Module, depth: int) -> nn.ModuleList:
    """The layers of an encoder: its first list of `depth` modules.

    Raises:
        ValueError: there is none.
    """
    for module in body.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(f"it has no list of its {depth} layers")


def add_concat(layers: nn.ModuleList) -> None:
    """Let each layer put its states of `prefix_states=PrefixStates(...)`, a keyword of `forward`, before the text's.

    A layer's visual tokens attend and are attended to, and are replaced at the next layer; none leaves the last one.
    Where positions are rotated into the keys, visual tokens stand at none.

    Raises:
        ValueError: the layers take no `attention_mask`.
    """
    for number, layer in enumerate(layers):
        names = tuple(inspect.signature(layer.forward).parameters)
        if "attention_mask" not in names:
            raise ValueError("its layers take no attention_mask")
        layer.register_forward_pre_hook(_Join(number, names), with_kwargs=True)
        layer.register_forward_hook(_strip, with_kwargs=True)


def extend_mask(mask: Tensor | None, hidden: Tensor, prefix: Tensor) -> Tensor:
    """A boolean mask (B, 1, P + L, P + L): every token sees the visual ones that count, and what text it saw.

    Args:
        mask: boolean (B, 1, L, L), or None where the text attends to all of itself.
        hidden: (B, L, C), the text.
        prefix: (B, P), True = attended.

    Returns:
        (B, 1, P + L, P + L), True = attended.
    """
    size, length = hidden.shape[:2]
    count = prefix.shape[1]
    text = hidden.new_ones(1, dtype=torch.bool) if mask is None else mask
    text = text.expand(size, 1, length, length)
    # Visual queries see what the first token sees: their states are thrown away, but no row may be empty.
    columns = torch.cat([text[:, :, :1].expand(-1, -1, count, -1), text], dim=2)
    return torch.cat([prefix[:, None, None, :].expand(-1, -1, count + length, -1), columns], dim=-1)


def _rotate_none(cosine: Tensor, sine: Tensor, count: int) -> tuple[Tensor, Tensor]:
    shape = (cosine.shape[0], count, cosine.shape[2])
    return torch.cat([cosine.new_ones(shape), cosine], dim=1), torch.cat([sine.new_zeros(shape), sine], dim=1)


def _strip(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
    """After a layer: leave the text's states."""
    prefix: PrefixStates | None = kwargs.get("prefix_states")
    return output if prefix is None else output[:, prefix.mask.shape[1] :]


class _Join:
    """Before layer `number`: join states, mask and rotations of the visual tokens to the text's."""

    def __init__(self, number: int, names: tuple[str, ...]) -> None:
        self.number, self.names = number, names

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        prefix: PrefixStates | None = kwargs.get("prefix_states")
        if prefix is None:
            return None
        hidden, *others = args
        given = kwargs | {name: others[place] for place, name in enumerate(self.names[1 : 1 + len(others)])}
        given["attention_mask"] = extend_mask(given["attention_mask"], hidden, prefix.mask)
        if given.get("position_embeddings") is not None:
            cosine, sine = given["position_embeddings"]
            given["position_embeddings"] = _rotate_none(cosine, sine, prefix.mask.shape[1])
        return (torch.cat([prefix.states[self.number].to(hidden.dtype), hidden], dim=1),), given
