"""Criteria of the mixed loss: for each row, the sum of its losses and the denominator of its mean."""

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

# A class index that does not count in a loss, as everywhere in PyTorch.
IGNORED = -100
CLASS_LOSSES = (F.cross_entropy, F.nll_loss)


@dataclass(frozen=True)
class RowLosses:
    """Losses of N rows.

    Attributes:
        total: Sum of the losses of a row's tokens, shape ``(N,)``.
        norm: Denominator of ``total`` in a mean over tokens, shape ``(N,)``: number of tokens, or their class weights.
        count: Number of tokens that count, shape ``(N,)``; 1 for a counted row without a token axis. A token of which
            only some labels are ignored counts as the share of the others.
    """

    total: Tensor
    norm: Tensor
    count: Tensor

    def parts(self, mean_over: MeanOver) -> tuple[Tensor, Tensor]:
        """Return numerator and denominator of each row's share of the mean, both of shape ``(N,)``."""
        scale = torch.where(self.count > 0, self.count, 1) if mean_over == "rows" else torch.ones_like(self.count)
        return self.total / scale, self.norm / scale


def row_losses(
    criterion: Criterion,
    outputs: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    live: Tensor,
    per: Per | None = None,
    *,
    valid: Tensor | None = None,
) -> RowLosses:
    """Apply a criterion; :meth:`attnmixup.MixedBatch.loss` documents the accepted kinds.

    For rows and tokens that have no loss, the criterion receives outputs and targets of 0 and its result is dropped, so
    that NaN in padding reaches neither the loss nor a gradient.

    Args:
        criterion: The criterion.
        outputs: Shape ``(N, ...)``.
        targets: Shape ``(N, ...)``.
        mask: Boolean, shape ``(N, L)``: tokens that count; None if all do.
        live: Boolean, shape ``(N,)``: rows that have a loss. The total of the others is 0.
        per: Whether the criterion returns one loss per ``"element"`` or per ``"row"``; None detects it.
        valid: Boolean, shape ``(N,)``: rows that ``norm`` and ``count`` include; None for those of ``live``.

    Returns:
        Loss, denominator and number of tokens of each row, each of shape ``(N,)``.
    """
    if per is not None:
        check_choice("per", per, Per)
    valid = live if valid is None else valid
    if per == "element" or (per is None and is_of_torch(criterion)):
        return _by_element(criterion, outputs, targets, mask, valid, live)
    return _by_row(criterion, outputs, targets, mask, valid, live)


def is_of_torch(criterion: Criterion) -> bool:
    """Return whether this is a loss function or module of PyTorch, or a ``functools.partial`` of such a function."""
    return _function(criterion).__module__ in ("torch.nn.modules.loss", "torch.nn.functional")


def reduction_of(criterion: Criterion) -> Reduction:
    """Return ``"sum"`` for a PyTorch criterion with ``reduction="sum"``, else ``"mean"``.

    Raises:
        ValueError: For ``"batchmean"``, which sums within rows and averages over them.
    """
    if not is_of_torch(criterion):
        return "mean"
    own = criterion.reduction if isinstance(criterion, nn.Module) else _keywords(criterion).get("reduction", "mean")
    if own not in get_args(Reduction):
        raise ValueError(
            f'The criterion has reduction={own!r}, expected "mean", "sum" or "none": use one of these, or pass a '
            'function that returns one loss per row, with per="row".'
        )
    return "sum" if own == "sum" else "mean"


def _by_element(
    criterion: Criterion, outputs: Tensor, targets: Tensor, mask: Tensor | None, valid: Tensor, live: Tensor
) -> RowLosses:
    _check_shapes(criterion, outputs, targets, mask)
    by_class, by_index = targets.shape == outputs.shape[:-1], not targets.is_floating_point()
    function, weight, ignored = _unreduced(criterion)
    lead = outputs.shape[: max(outputs.ndim - 1, 1 if mask is None else mask.ndim)]
    counted = _expand(valid, targets.shape)
    if mask is not None:
        counted = counted & _expand(mask, targets.shape)
    if by_index:
        counted = counted & (targets != ignored)
    scored = counted & _expand(live, targets.shape)
    outputs = torch.where(_expand(scored, outputs.shape), outputs, 0)
    given = torch.where(scored, targets, 0)
    given = given if by_class else given.to(outputs.dtype)
    flat = outputs.reshape(math.prod(lead), *outputs.shape[len(lead) :])
    losses = function(flat, given.reshape(math.prod(lead), *targets.shape[len(lead) :]))
    if losses.shape not in (flat.shape, flat.shape[:1]):
        raise ValueError(
            f"The criterion returned losses of shape {tuple(losses.shape)} for outputs {tuple(flat.shape)}, expected "
            'one loss per element: disable its own mean (reduction="none"), or pass per="row" if it scores whole rows.'
        )
    # The last axis holds the losses of a token or the labels that it has, one or several.
    labels = (*lead, math.prod(targets.shape[len(lead) :]))
    counted, scored = counted.reshape(labels), scored.reshape(labels)
    losses = functional.upcast(losses).reshape(*lead, math.prod(losses.shape[1:]))
    losses = torch.where(scored, losses, 0).mean(-1)
    count = counted.to(losses.dtype).mean(-1)
    norm = count
    if by_class and by_index and weight is not None:
        norm = count * weight[torch.where(counted.reshape(targets.shape), targets, 0)]
    return RowLosses(*(tensor.flatten(1).sum(1) if tensor.ndim > 1 else tensor for tensor in (losses, norm, count)))


def _check_shapes(criterion: Criterion, outputs: Tensor, targets: Tensor, mask: Tensor | None) -> None:
    by_class, by_index = targets.shape == outputs.shape[:-1], not targets.is_floating_point()
    if not by_class and targets.shape != outputs.shape:
        raise ValueError(
            f"targets must have the shape of the outputs {tuple(outputs.shape)}, with or without the last axis, got "
            f"{tuple(targets.shape)}."
        )
    if by_class and outputs.shape[-1] == 1 and not by_index and is_of_torch(criterion):
        raise ValueError(
            f"Got one value per target, {tuple(targets.shape)}, for outputs {tuple(outputs.shape)}: drop the last axis "
            "of the outputs with outputs.squeeze(-1)."
        )
    if not by_class and by_index and _takes_class_indices(criterion):
        raise ValueError(
            f"This criterion takes integer targets as class indices, of shape {tuple(outputs.shape[:-1])}, got "
            f"{tuple(targets.shape)}: pass targets.float() if they are distributions, or use "
            "F.binary_cross_entropy_with_logits if a sample has several labels."
        )
    if mask is not None and mask.shape != outputs.shape[: mask.ndim]:
        raise ValueError(
            f"The mask of the targets {tuple(mask.shape)} must match the outputs, got outputs {tuple(outputs.shape)}."
        )


def _by_row(
    criterion: Criterion, outputs: Tensor, targets: Tensor, mask: Tensor | None, valid: Tensor, live: Tensor
) -> RowLosses:
    given: dict[str, Tensor] = {}
    if mask is None:
        if not targets.is_floating_point() and targets.ndim in (1, 2):
            valid = valid & (targets != IGNORED).reshape(targets.shape[0], math.prod(targets.shape[1:])).any(1)
        live = live & valid
        counted = live
    else:
        if not _takes_mask(criterion):
            raise ValueError(
                "The targets have a mask, but the criterion has no argument named mask: add one, or pass "
                'per="element" if it returns one loss per token.'
            )
        valid = valid & mask.any(1)
        live = live & valid
        counted = mask & live.unsqueeze(1)
        # A row without tokens keeps its first, so that no criterion divides by zero. The loss of the row is dropped.
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        given["mask"] = counted | (first & ~live.unsqueeze(1))
    by_token = counted.shape == outputs.shape[: counted.ndim] and (
        outputs.ndim > counted.ndim or outputs.shape == targets.shape
    )
    outputs = torch.where(_expand(counted if by_token else live, outputs.shape), outputs, 0)
    targets = torch.where(_expand(counted, targets.shape), targets, 0)
    rows = criterion(outputs, targets, **given)
    if rows.shape != outputs.shape[:1]:
        raise ValueError(
            f"The criterion must return one loss per row, shape {tuple(outputs.shape[:1])}, got {tuple(rows.shape)}: "
            'disable its own mean (reduction="none"), or pass per="element" if it returns one loss per element.'
        )
    rows = functional.upcast(rows)
    count = valid.to(rows.dtype)
    return RowLosses(rows.masked_fill(~live, 0), count, count)


def _unreduced(criterion: Criterion) -> tuple[Criterion, Tensor | None, int]:
    """Return the criterion without its reduction, its class weights, and its ignored class index."""
    if not is_of_torch(criterion):
        return criterion, None, IGNORED
    if isinstance(criterion, nn.Module):
        loss: Any = criterion
        function: Criterion = partial(type(loss).forward, _Unreduced(loss))
        weight = loss.weight if _takes_class_indices(loss) else None
        return function, weight, getattr(loss, "ignore_index", IGNORED)
    keywords = _keywords(criterion)
    weight = keywords.get("weight") if _takes_class_indices(criterion) else None
    function = partial(_function(criterion), **{**keywords, "reduction": "none"})
    return function, weight, keywords.get("ignore_index", IGNORED)


class _Unreduced:
    """The settings of a loss module, except its reduction."""

    reduction = "none"

    def __init__(self, loss: nn.Module) -> None:
        self.loss = loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loss, name)


def _function(criterion: Criterion) -> Any:
    return criterion.func if isinstance(criterion, partial) else criterion


def _keywords(criterion: Criterion) -> dict[str, Any]:
    return criterion.keywords if isinstance(criterion, partial) else {}


def _takes_class_indices(criterion: Criterion) -> bool:
    return isinstance(criterion, (nn.CrossEntropyLoss, nn.NLLLoss)) or _function(criterion) in CLASS_LOSSES


def _takes_mask(criterion: Criterion) -> bool:
    function = _function(criterion)
    if isinstance(function, nn.Module):
        function = function.forward
    elif not hasattr(function, "__code__"):
        function = type(function).__call__
    # torch.compile cannot trace inspect.signature().
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    takes_any = bool(code.co_flags & 0x08)
    return takes_any or "mask" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _expand(tensor: Tensor, shape: torch.Size) -> Tensor:
    return tensor.reshape(*tensor.shape, *[1] * (len(shape) - tensor.ndim)).expand(shape)
