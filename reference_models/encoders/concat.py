"""Literal Eq. 4: visual tokens as hidden states before the text in each layer, added by hooks on the layers."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from reference_models.encoders.prefix import PrefixStates


def find_layers(body: nn.Module, depth: int) -> nn.ModuleList:
    """Return the layers of an encoder: its first `ModuleList` of `depth` modules.

    Raises:
        ValueError: If there is no such list.
    """
    for module in body.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(f"it has no ModuleList of {depth} layers")


def add_concat(layers: nn.ModuleList) -> None:
    """Make each layer prepend its states of the keyword argument `prefix_states` (`PrefixStates`) to the text's states.

    The visual tokens of a layer attend and are attended to. They are removed after the layer, and the next layer has
    its own. With rotary positions, visual tokens are not rotated.

    Raises:
        ValueError: If the layers do not take an `attention_mask`.
    """
    for number, layer in enumerate(layers):
        names = tuple(inspect.signature(layer.forward).parameters)
        if "attention_mask" not in names:
            raise ValueError("its layers take no attention_mask")
        layer.register_forward_pre_hook(_Join(number, names), with_kwargs=True)
        layer.register_forward_hook(_strip, with_kwargs=True)


def extend_mask(mask: Tensor | None, hidden: Tensor, prefix: Tensor) -> Tensor:
    """Extend an attention mask by the visual tokens, which every token may attend to unless `prefix` masks them.

    Args:
        mask: Boolean mask (B, 1, L, L), or None if the text attends to all of its tokens.
        hidden: Hidden states of the text, (B, L, C).
        prefix: Mask of the visual tokens (B, P), True = attended.

    Returns:
        Boolean mask (B, 1, P + L, P + L), True = attended.
    """
    size, length = hidden.shape[:2]
    count = prefix.shape[1]
    text = hidden.new_ones(1, dtype=torch.bool) if mask is None else mask
    text = text.expand(size, 1, length, length)
    # Visual queries use the mask of the first token: their outputs are discarded, but no row may be fully masked.
    columns = torch.cat([text[:, :, :1].expand(-1, -1, count, -1), text], dim=2)
    return torch.cat([prefix[:, None, None, :].expand(-1, -1, count + length, -1), columns], dim=-1)


def _rotate_none(cosine: Tensor, sine: Tensor, count: int) -> tuple[Tensor, Tensor]:
    shape = (cosine.shape[0], count, cosine.shape[2])
    return torch.cat([cosine.new_ones(shape), cosine], dim=1), torch.cat([sine.new_zeros(shape), sine], dim=1)


def _strip(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
    """Keep only the states of the text after a layer."""
    prefix: PrefixStates | None = kwargs.get("prefix_states")
    return output if prefix is None else output[:, prefix.mask.shape[1] :]


class _Join:
    """Forward pre-hook of layer `number`: prepends states, mask and rotations of the visual tokens."""

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
