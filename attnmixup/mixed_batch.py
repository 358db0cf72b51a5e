"""MixedBatch: what AttnMixup gives back - rows, targets as pairs, lambda, and where each row came from."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from attnmixup import functional

Criterion = Callable[..., Tensor]


class Origin(IntEnum):
    """Where a row of the final set came from."""

    ORIGINAL = 0
    TRANSFORMED = 1
    SYNTHETIC = 2


@dataclass(frozen=True, eq=False)
class MixedBatch:
    """The final set of Eq. 16, N rows: originals first, then transformed, then synthetic ones.

    A row stands between two source rows, ``lam`` of the first and ``1 - lam`` of the second. Original and transformed
    rows have one source, ``index_a == index_b`` and ``lam == 1``.

    Attributes:
        embeddings: Shape ``(N, C)`` or ``(N, L, C)``.
        targets_a: Targets of the first source, shape ``(N, ...)``, or None if no targets were given.
        targets_b: Targets of the second source.
        lam: Weight of the first source, shape ``(N,)``.
        mask: Real tokens of the embeddings, of either source, shape ``(N, L)``; None without a mask.
        mask_a: Real tokens of ``targets_a``, shape ``(N, L)``; None if the targets are not by token.
        mask_b: Real tokens of ``targets_b``.
        weight: Share of each row in the loss, shape ``(N,)``: ``loss = sum(weight * row_losses)``. Shares sum to 1 (or,
            where real and synthetic rows are averaged apart, to 2); padding samples have 0.
        origin: :class:`Origin` of each row, shape ``(N,)``.
        index_a: Row of the batch that is the first source, shape ``(N,)``: ``lengths[mixed.index_a]`` carries anything
            along.
        index_b: Row of the batch that is the second source.
        num_originals: The first so many rows are the batch itself.
        num_synthetic: The last so many rows are synthetic.
        attention: Weights of the attention across samples, if asked for.
    """

    embeddings: Tensor
    targets_a: Tensor | None
    targets_b: Tensor | None
    lam: Tensor
    mask: Tensor | None
    mask_a: Tensor | None
    mask_b: Tensor | None
    weight: Tensor
    origin: Tensor
    index_a: Tensor
    index_b: Tensor
    num_originals: int
    num_synthetic: int
    attention: Tensor | None = None

    def loss(self, criterion: Criterion, outputs: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
        """Loss of the final set, ``lam * l(outputs, targets_a) + (1 - lam) * l(outputs, targets_b)`` by row.

        Args:
            criterion: Either a function with a ``reduction`` argument, such as ``F.cross_entropy`` (or a
                ``functools.partial`` of one), or a module that has ``reduction="none"``, called on flattened ``(N, K)``
                or ``(N * L, K)``; the tokens of a row are averaged under its mask. Or any callable that is given
                ``(outputs, targets)``, and the mask as third argument where the targets have one, and returns one loss
                per row, such as the negative log-likelihood of a CRF.
            outputs: What the head makes of ``embeddings``, shape ``(N, ...)``, classes last.
            reduction: ``"mean"`` weights the rows by ``weight``; ``"none"`` returns them unweighted, shape ``(N,)``.

        Raises:
            ValueError: If there are no targets, outputs do not have N rows, or the criterion returns another shape.

        Example:
            >>> from attnmixup import AttnMixup
            >>> mixed = AttnMixup(dim=8)(torch.randn(5, 8), torch.tensor([0, 1, 2, 1, 0]))
            >>> head = torch.nn.Linear(8, 3)
            >>> mixed.loss(torch.nn.functional.cross_entropy, head(mixed.embeddings)).shape
            torch.Size([])
        """
        if self.targets_a is None or self.targets_b is None:
            raise ValueError("This batch has no targets: pass them to AttnMixup, as in mixer(embeddings, targets).")
        if outputs.shape[:1] != self.lam.shape:
            raise ValueError(
                f"outputs must have {len(self.lam)} rows, one for each of mixed.embeddings, got {tuple(outputs.shape)}."
            )
        if reduction not in ("mean", "none"):
            raise ValueError(f'reduction must be "mean" or "none", got {reduction!r}.')
        rows = row_losses(criterion, outputs, self.targets_a, self.mask_a)
        if self.num_synthetic:
            # Only synthetic rows have a second target: a CRF need not score the others twice.
            real = rows.shape[0] - self.num_synthetic
            second_mask = None if self.mask_b is None else self.mask_b[real:]
            second = row_losses(criterion, outputs[real:], self.targets_b[real:], second_mask)
            rows = torch.cat([rows[:real], functional.mixed_loss(rows[real:], second, self.lam[real:])])
        return rows if reduction == "none" else (self.weight * rows).sum()

    def soft_targets(self, num_classes: int) -> Tensor:
        """Targets as distributions ``lam * y_a + (1 - lam) * y_b`` (Eq. 15), shape ``(N, ..., num_classes)``.

        For class indices ``(N,)`` or ``(N, L)``, where ignored labels such as -100 give zeros, and for targets that are
        distributions already. Where only one of the two sources has a token, that token's target is unmixed.
        """
        if self.targets_a is None or self.targets_b is None:
            raise ValueError("This batch has no targets: pass them to AttnMixup, as in mixer(embeddings, targets).")
        return functional.interpolate_targets(
            self.targets_a,
            self.targets_b,
            self.lam,
            num_classes,
            first_mask=self.mask_a,
            second_mask=self.mask_b,
        )

    def originals(self, tensor: Tensor) -> Tensor:
        """The rows of ``tensor``, shape ``(N, ...)``, that belong to the batch itself, in its order: for metrics."""
        if tensor.shape[:1] != self.lam.shape:
            raise ValueError(f"Expected {len(self.lam)} rows, got a tensor of shape {tuple(tensor.shape)}.")
        return tensor[: self.num_originals]

    def stats(self) -> dict[str, float]:
        """Numbers to log: rows by origin, their share of the loss, lambda. Waits for the device."""
        stats: dict[str, float] = {}
        for origin in Origin:
            of_origin = self.origin == origin
            stats[f"rows/{origin.name.lower()}"] = float(of_origin.sum())
            stats[f"weight/{origin.name.lower()}"] = float(self.weight[of_origin].sum())
        if self.num_synthetic:
            stats["lam/mean"] = float(self.lam[-self.num_synthetic :].mean())
        if self.attention is not None:
            stats["attention/entropy"] = float(torch.special.entr(self.attention.detach()).sum(-1).mean())
        return stats


# So that a mixer can be the output of an exported program.
torch.export.register_dataclass(MixedBatch)


def row_losses(criterion: Criterion, outputs: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
    """One loss per row, shape ``(N,)``; see :meth:`MixedBatch.loss` for what a criterion may be."""
    by_element = _by_element(criterion)
    if by_element is not None:
        return _mean_by_row(by_element, outputs, targets, mask)
    rows = criterion(outputs, targets) if mask is None else criterion(outputs, targets, mask)
    if rows.shape != outputs.shape[:1]:
        raise ValueError(
            f"The criterion must return one loss per row, shape {tuple(outputs.shape[:1])}, got {tuple(rows.shape)}; "
            'leave out its own mean (reduction="none").'
        )
    return rows


def _by_element(criterion: Criterion) -> Criterion | None:
    if getattr(criterion, "reduction", None) == "none":
        return criterion
    # Not inspect.signature(), which torch.compile cannot trace.
    code = getattr(criterion.func if isinstance(criterion, partial) else criterion, "__code__", None)
    if code is not None and "reduction" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        return partial(criterion, reduction="none")
    return None


def _mean_by_row(criterion: Criterion, outputs: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
    if targets.shape not in (outputs.shape, outputs.shape[:-1]):
        raise ValueError(
            f"targets must have the shape of the outputs {tuple(outputs.shape)}, or that without the last axis, got "
            f"{tuple(targets.shape)}."
        )
    leading = outputs.shape[: max(1, outputs.ndim - 1)] if mask is None else mask.shape
    flat = outputs.reshape(-1, *outputs.shape[len(leading) :])
    losses = criterion(flat, targets.reshape(-1, *targets.shape[len(leading) :]))
    if losses.shape not in (flat.shape, flat.shape[:1]):
        raise ValueError(
            f"The criterion made losses of shape {tuple(losses.shape)} from outputs {tuple(outputs.shape)} and targets "
            f"{tuple(targets.shape)}; give both the same shape."
        )
    losses = losses.reshape(*leading, -1)
    if mask is not None:
        return functional.masked_mean(losses.mean(-1, keepdim=True), mask).squeeze(-1)
    return losses.flatten(1).mean(1)
