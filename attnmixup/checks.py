"""Checks of what users pass: what was expected, what came, what to do."""

from typing import Any, get_args

import torch
from torch import Tensor


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise ValueError unless ``value`` is one of the values of the Literal type ``choices``."""
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(choices)))}, got {value!r}.")


def check_ratio(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}.")


def check_embeddings(embeddings: Tensor, dim: int, mask: Tensor | None, *, may_be_empty: bool = False) -> None:
    """Raise unless the embeddings are (B, dim) or (B, L, dim), floating point, with a mask that fits."""
    empty = not may_be_empty and embeddings.shape[:1] == (0,)
    if embeddings.ndim not in (2, 3) or embeddings.shape[-1] != dim or empty:
        raise ValueError(
            f"embeddings must have shape (B, {dim}) or (B, L, {dim}) with B >= 1, got {tuple(embeddings.shape)}."
        )
    if not embeddings.is_floating_point():
        raise TypeError(f"embeddings must be floating point, got {embeddings.dtype}.")
    if mask is not None:
        check_mask("mask", mask, embeddings.shape[:-1])


def check_mask(name: str, mask: Tensor, shape: torch.Size) -> None:
    """Raise unless ``mask`` is boolean and has this shape."""
    if mask.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(mask.shape)}.")
    if mask.dtype != torch.bool:
        raise TypeError(f"{name} must be boolean, True for what is real, got {mask.dtype}; use {name}.bool().")


def check_values(ok: Tensor, message: str) -> None:
    """Raise ValueError unless all of ``ok`` is true; an accelerator checks it without making the host wait.

    Not checked under torch.compile, which would break its graph.
    """
    if torch.compiler.is_compiling():
        return
    if ok.device.type != "cpu":
        torch._assert_async(ok.all(), message)
    elif not bool(ok.all()):
        raise ValueError(message)
