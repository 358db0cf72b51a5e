"""Checks of user input with messages that name the expected value, the value found, and the fix."""

from typing import Any, get_args

import torch
from torch import Generator, Tensor


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise ValueError unless ``value`` is one of the values of the Literal type ``choices``."""
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(choices)))}, got {value!r}.")


def check_ratio(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}.")


def check_embeddings(embeddings: Tensor, dim: int, mask: Tensor | None, *, may_be_empty: bool = False) -> None:
    """Raise unless the embeddings are (B, dim) or (B, L, dim) and floating point, and the mask matches them."""
    if not isinstance(embeddings, Tensor) or embeddings.is_nested:
        got = "a nested tensor" if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise TypeError(f"embeddings must be a tensor, padded to one length with a mask, got {got}.")
    empty = 0 in embeddings.shape and not (may_be_empty and embeddings.shape[0] == 0)
    if embeddings.ndim not in (2, 3) or embeddings.shape[-1] != dim or empty:
        raise ValueError(
            f"embeddings must have shape (B, {dim}) or (B, L, {dim}) with B >= 1 and L >= 1, got "
            f"{tuple(embeddings.shape)}."
        )
    if not embeddings.is_floating_point():
        raise TypeError(f"embeddings must be floating point, got {embeddings.dtype}.")
    if mask is not None:
        check_mask("mask", mask, embeddings.shape[:-1])


def check_dtype(name: str, given: Tensor, weight: Tensor) -> None:
    """Raise TypeError unless the tensor has the dtype of the module's weights, or autocast converts it."""
    device = given.device.type
    if given.dtype != weight.dtype and not (
        torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    ):
        raise TypeError(
            f"{name} has dtype {given.dtype}, but the parameters of the module have {weight.dtype}: create the module "
            f"with dtype={given.dtype}, or use torch.autocast."
        )


def check_mask(name: str, mask: Tensor, shape: torch.Size) -> None:
    """Raise ValueError unless ``mask`` has this shape, TypeError unless it is boolean."""
    if mask.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(mask.shape)}.")
    if mask.dtype != torch.bool:
        raise TypeError(f"{name} must be boolean (True means real), got {mask.dtype}; use {name}.bool().")


def check_values(ok: Tensor, message: str) -> None:
    """Raise ValueError unless all of ``ok`` is true; accelerators assert it asynchronously, so the host does not wait.

    Not checked under torch.compile, because the check would break the graph.
    """
    if torch.compiler.is_compiling():
        return
    if ok.device.type != "cpu":
        torch._assert_async(ok.all(), message)
    elif not bool(ok.all()):
        raise ValueError(message)


def is_recomputing() -> bool:
    """Return whether a backward pass runs the forward pass again (activation checkpointing)."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def refuse_recomputation(generator: Generator | None) -> None:
    """Raise if activation checkpointing runs the forward pass again, where a generator would draw other numbers."""
    if generator is not None and is_recomputing():
        raise RuntimeError(
            "AttnMixup ran again in a backward pass (activation checkpointing), where the generator would draw "
            "different numbers: leave out generator= (checkpointing restores the global random state), or keep the "
            "mixer outside the checkpointed part."
        )
