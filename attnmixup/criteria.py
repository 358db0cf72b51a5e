"""What a criterion may be, and what it gives: for each row the sum of its losses and what that sum is divided by."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnmixup import functional
from attnmixup.checks import check_choice

Criterion = Callable[..., Tensor]
Per = Literal["element", "row"]
MeanOver = Literal["tokens", "rows"]
Reduction = Literal["mean", "sum", "none"]

# A class index that has no part in a loss, as everywhere in PyTorch.
IGNORED = -100


@dataclass(frozen=True)
class RowLosses:
    """Losses of N rows.

    Attributes:
        total: Sum of the losses of a row's tokens, shape ``(N,)``.
        norm: What ``total`` is divided by in a mean over tokens, shape ``(N,)``: their number, or their class weights.
        count: Number of tokens that count, shape ``(N,)``; 1 for a row without tokens.
    """

    total: Tensor
    norm: Tensor
    count: Tensor

    def parts(self, mean_over: MeanOver) -> tuple[Tensor, Tensor]:
        """Numerator and denominator of each row's part in the mean, both of shape ``(N,)``."""
        scale = self.count.clamp_min(1) if mean_over == "rows" else torch.ones_like(self.count)
        return self.total / scale, self.norm / scale


def row_losses(
    criterion: Criterion, outputs: Tensor, targets: Tensor, mask: Tensor | None, live: Tensor, per: Per | None = None
) -> RowLosses:
    """Apply a criterion; :meth:`attnmixup.MixedBatch.loss` says what it may be.

    Where a row or token has no part in the loss the criterion sees outputs and targets of 0, and what it makes of them
    is dropped, so that NaN in padding reaches neither the loss nor a gradient.

    Args:
        criterion: The criterion.
        outputs: Shape ``(N, ...)``.
        targets: Shape ``(N, ...)``.
        mask: Boolean, shape ``(N, L)``: tokens that count; None if all do.
        live: Boolean, shape ``(N,)``: rows that count.
        per: Whether the criterion gives one loss for each ``"element"`` or for each ``"row"``; None finds out.
    """
    if per is not None:
        check_choice("per", per, Per)
    if per == "element" or (per is None and is_of_torch(criterion)):
        return _by_element(criterion, outputs, targets, mask, live)
    return _by_row(criterion, outputs, targets, mask, live)


def is_of_torch(criterion: Criterion) -> bool:
    """Whether this is a loss function or loss module of PyTorch itself, or a ``functools.partial`` of a function."""
    return _function(criterion).__module__ in ("torch.nn.modules.loss", "torch.nn.functional")


def reduction_of(criterion: Criterion) -> Reduction:
    """The reduction that a criterion of PyTorch was made with; ``"mean"`` if it names none, or leaves it to us.

    Raises:
        ValueError: For ``"batchmean"``, which is a mean over rows of sums.
    """
    if not is_of_torch(criterion):
        return "mean"
    own = criterion.reduction if isinstance(criterion, nn.Module) else _keywords(criterion).get("reduction", "mean")
    if own not in get_args(Reduction):
        raise ValueError(
            f'The criterion has reduction={own!r}, expected "mean", "sum" or "none": leave it out, or pass a function '
            'that returns one loss per row, with per="row".'
        )
    return "sum" if own == "sum" else "mean"


def _by_element(criterion: Criterion, outputs: Tensor, targets: Tensor, mask: Tensor | None, live: Tensor) -> RowLosses:
    by_class = targets.shape == outputs.shape[:-1]
    if not by_class and targets.shape != outputs.shape:
        raise ValueError(
            f"targets must have the shape of the outputs {tuple(outputs.shape)}, or that without the last axis, got "
            f"{tuple(targets.shape)}."
        )
    if not by_class and not targets.is_floating_point():
        targets = targets.to(outputs.dtype)
    if mask is not None and mask.shape != outputs.shape[: mask.ndim]:
        raise ValueError(
            f"The mask of the targets {tuple(mask.shape)} must fit the outputs, got outputs {tuple(outputs.shape)}."
        )
    lead = outputs.shape[: max(outputs.ndim - 1, 1 if mask is None else mask.ndim)]
    counted = _expand(live, lead) if mask is None else _expand(live, lead) & _expand(mask, lead)
    by_index = by_class and not targets.is_floating_point()
    function, weight, ignored = _unreduced(criterion)
    if by_index:
        counted = counted & (targets != ignored)
    targets = torch.where(_expand(counted, targets.shape), targets, 0)
    outputs = torch.where(_expand(counted, outputs.shape), outputs, 0)
    flat = outputs.reshape(math.prod(lead), *outputs.shape[len(lead) :])
    losses = function(flat, targets.reshape(math.prod(lead), *targets.shape[len(lead) :]))
    if losses.shape not in (flat.shape, flat.shape[:1]):
        raise ValueError(
            f"The criterion made losses of shape {tuple(losses.shape)} from outputs {tuple(flat.shape)}, expected one "
            'for each element: leave out its own mean (reduction="none"), or pass per="row" if it looks at whole rows.'
        )
    losses = functional.upcast(losses).reshape(*lead, math.prod(losses.shape[1:])).mean(-1).masked_fill(~counted, 0)
    count = counted.to(losses.dtype)
    norm = count * weight[targets] if by_index and weight is not None else count
    return RowLosses(*(tensor.flatten(1).sum(1) if tensor.ndim > 1 else tensor for tensor in (losses, norm, count)))


def _by_row(criterion: Criterion, outputs: Tensor, targets: Tensor, mask: Tensor | None, live: Tensor) -> RowLosses:
    given: dict[str, Tensor] = {}
    if mask is None:
        if not targets.is_floating_point() and targets.ndim in (1, 2):
            live = live & (targets != IGNORED).reshape(targets.shape[0], math.prod(targets.shape[1:])).any(1)
        counted = live
    else:
        if not _takes_mask(criterion):
            raise ValueError(
                "The targets have a mask, but the criterion has no argument of the name mask: give it one, or pass "
                'per="element" if it gives one loss for each token.'
            )
        counted = mask & live.unsqueeze(1)
        live = counted.any(1)
        # A row without any token keeps its first, so that no criterion divides by nothing; its loss is dropped.
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        given["mask"] = counted | (first & ~live.unsqueeze(1))
    if counted.shape == outputs.shape[: counted.ndim]:
        outputs = torch.where(_expand(counted, outputs.shape), outputs, 0)
    targets = torch.where(_expand(counted, targets.shape), targets, 0)
    rows = criterion(outputs, targets, **given)
    if rows.shape != outputs.shape[:1]:
        raise ValueError(
            f"The criterion must return one loss per row, shape {tuple(outputs.shape[:1])}, got {tuple(rows.shape)}: "
            'leave out its own mean (reduction="none"), or pass per="element" if it gives one loss for each element.'
        )
    rows = functional.upcast(rows)
    count = live.to(rows.dtype)
    return RowLosses(rows.masked_fill(~live, 0), count, count)


def _unreduced(criterion: Criterion) -> tuple[Criterion, Tensor | None, int]:
    """The criterion without its reduction, its class weights, and the class index that it ignores."""
    if not is_of_torch(criterion):
        return criterion, None, IGNORED
    if isinstance(criterion, nn.Module):
        loss: Any = criterion
        function: Criterion = partial(type(loss).forward, _Unreduced(loss))
        weight = loss.weight if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) else None
        return function, weight, getattr(loss, "ignore_index", IGNORED)
    keywords = _keywords(criterion)
    weight = keywords.get("weight") if _function(criterion) in (F.cross_entropy, F.nll_loss) else None
    function = partial(_function(criterion), **{**keywords, "reduction": "none"})
    return function, weight, keywords.get("ignore_index", IGNORED)


class _Unreduced:
    """The settings of a loss module, but for its reduction."""

    reduction = "none"

    def __init__(self, loss: nn.Module) -> None:
        self.loss = loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loss, name)


def _function(criterion: Criterion) -> Any:
    return criterion.func if isinstance(criterion, partial) else criterion


def _keywords(criterion: Criterion) -> dict[str, Any]:
    return criterion.keywords if isinstance(criterion, partial) else {}


def _takes_mask(criterion: Criterion) -> bool:
    function = _function(criterion)
    if isinstance(function, nn.Module):
        function = function.forward
    elif not hasattr(function, "__code__"):
        function = type(function).__call__
    # Not inspect.signature(), which torch.compile cannot trace.
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    takes_any = bool(code.co_flags & 0x08)
    return takes_any or "mask" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _expand(tensor: Tensor, shape: torch.Size) -> Tensor:
    return tensor.reshape(*tensor.shape, *[1] * (len(shape) - tensor.ndim)).expand(shape)
