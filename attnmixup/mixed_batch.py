"""MixedBatch: what AttnMixup gives back - rows, targets as pairs, lambda, and where each row came from."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from attnmixup import distributed, functional
from attnmixup.checks import check_choice, check_mask, check_values
from attnmixup.criteria import Criterion, MeanOver, Per, Reduction, reduction_of, row_losses


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
        weight: Weight of each row in the loss, shape ``(N,)``: the loss of a criterion that gives one value per row
            is ``sum(weight * row_losses)``, if no label is ignored. Weights sum to 1 (or, where real and synthetic rows
            are averaged apart, to up to 2; or, in a share of a global batch, to this on average over the ranks);
            padding samples have 0.
        origin: :class:`Origin` of each row, shape ``(N,)``.
        index_a: Row of the batch that is the first source, shape ``(N,)``; of the global batch, if there is one.
            :meth:`take` carries anything along.
        index_b: Row of the batch that is the second source.
        num_originals: Number of leading rows that are the batch itself.
        num_synthetic: Number of trailing rows that are synthetic.
        apart: Whether real and synthetic rows are averaged apart.
        attention: Weights of the attention across samples, if asked for.
        ranks: The processes that share the global batch; None for a local one.
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
    apart: bool = False
    attention: Tensor | None = None
    ranks: distributed.GroupReference | None = None

    def loss(
        self,
        criterion: Criterion,
        outputs: Tensor,
        *,
        per: Per | None = None,
        targets: Tensor | None = None,
        target_mask: Tensor | None = None,
        mean_over: MeanOver = "tokens",
        reduction: Reduction | None = None,
    ) -> Tensor:
        """Loss of the final set, ``lam * l(outputs, targets_a) + (1 - lam) * l(outputs, targets_b)`` by row (Eq. 15).

        In evaluation and at strength 0 this is PyTorch's own loss of the batch, with class weights, label smoothing and
        ignored labels. In training each row of the final set adds its losses to the numerator of that mean and its
        tokens (or their class weights) to the denominator, both times its weight; of a mixed row, lambda of the first
        source's and 1 - lambda of the second's. An ignored label adds to neither.

        Args:
            criterion: A loss function or loss module of PyTorch as it is, such as ``F.cross_entropy``, a
                ``functools.partial`` of it, or ``nn.CrossEntropyLoss(weight=...)``. Or any callable of
                ``(outputs, targets)`` that returns one loss per row, such as the negative log-likelihood of a CRF;
                where the targets have a mask it must take it by the keyword ``mask``.
            outputs: What the head makes of ``embeddings``, shape ``(N, ...)``, classes last.
            per: ``"element"`` if a callable of your own gives one loss for each of the flattened outputs ``(N, K)`` or
                ``(N * L, K)``; ``"row"`` if it gives one for each row. None is ``"element"`` for PyTorch's and
                ``"row"`` for others.
            targets: Other targets of the batch than those given to the mixer, shape ``(B, ...)``: several heads can
                share one mixed batch.
            target_mask: Mask of ``targets``, shape ``(B, L)``.
            mean_over: A mean over all ``"tokens"``, as PyTorch's, or over ``"rows"`` of the means over their tokens.
            reduction: ``"mean"``; ``"none"`` for the unweighted means over the tokens of each row, shape ``(N,)``; or
                ``"sum"``, the mean times the number (or class weights) of the original tokens, so that the scale stays
                that of the batch. None is the criterion's own, which is a mean if it has none.

        Raises:
            ValueError: If there are no targets, shapes do not go together, or the criterion returns another shape.

        Example:
            >>> from attnmixup import AttnMixup
            >>> mixed = AttnMixup(dim=8)(torch.randn(5, 8), torch.tensor([0, 1, 2, 1, 0]))
            >>> head = torch.nn.Linear(8, 3)
            >>> mixed.loss(torch.nn.functional.cross_entropy, head(mixed.embeddings)).shape
            torch.Size([])
        """
        check_choice("mean_over", mean_over, MeanOver)
        if reduction is not None:
            check_choice("reduction", reduction, Reduction)
        if outputs.shape[:1] != self.lam.shape:
            raise ValueError(
                f"outputs must have {len(self.lam)} rows, one for each of mixed.embeddings, got {tuple(outputs.shape)}."
            )
        (first, second), (first_mask, second_mask) = self._targets(targets, target_mask)
        live, real = self.weight > 0, outputs.shape[0] - self.num_synthetic
        over: MeanOver = "rows" if reduction == "none" else mean_over
        losses = row_losses(criterion, outputs, first, first_mask, live, per)
        total, norm = losses.parts(over)
        if self.num_synthetic:
            # Only synthetic rows have a second target: a CRF need not score the others twice.
            mask = None if second_mask is None else second_mask[real:]
            others = row_losses(criterion, outputs[real:], second[real:], mask, live[real:], per)
            other_total, other_norm = others.parts(over)
            lam = self.lam[real:]
            total = torch.cat([total[:real], functional.mixed_loss(total[real:], other_total, lam)])
            norm = torch.cat([norm[:real], functional.mixed_loss(norm[real:], other_norm, lam)])
        if reduction == "none":
            return total
        parts = (slice(real), slice(real, None)) if self.apart else (slice(None),)
        mean = torch.stack([self._mean(total[rows], norm[rows], self.weight[rows]) for rows in parts]).sum()
        if (reduction or reduction_of(criterion)) == "mean":
            return mean
        return mean * self._over_ranks(norm[: self.num_originals].sum().unsqueeze(0))[0]

    def _targets(
        self, targets: Tensor | None, target_mask: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor | None, Tensor | None]]:
        """Targets and masks of both sources."""
        if targets is None:
            if target_mask is not None:
                raise ValueError("target_mask goes with targets: pass both, or neither.")
            if self.targets_a is None or self.targets_b is None:
                raise ValueError("This batch has no targets: pass them to AttnMixup, as in mixer(embeddings, targets).")
            return (self.targets_a, self.targets_b), (self.mask_a, self.mask_b)
        if target_mask is not None:
            check_mask("target_mask", target_mask, targets.shape[: target_mask.ndim])
        return self.take(targets), (None, None) if target_mask is None else self.take(target_mask)

    def _mean(self, total: Tensor, norm: Tensor, weight: Tensor) -> Tensor:
        """Mean of some rows, times the sum of their weights."""
        shares, whole = self._over_ranks(torch.stack([(weight * norm).sum(), weight.sum()])).unbind()
        # Without any counted row the numerator is 0 too.
        return (weight * total).sum() / torch.where(shares > 0, shares, 1) * whole

    def _over_ranks(self, sums: Tensor) -> Tensor:
        """Mean over the ranks of a global batch; what comes in for a local one."""
        return sums if self.ranks is None else self.ranks.mean(sums)

    def take(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of anything about the samples, for the first and the second source of each mixed row.

        Args:
            tensor: Shape ``(B, ...)``, of this process's samples. In a global batch every rank must make this call.

        Returns:
            Two tensors of shape ``(N, ...)``.

        Raises:
            ValueError: If the tensor does not have B rows.
        """
        if tensor.shape[:1] != (self.num_originals,):
            raise ValueError(f"Expected one row for each of {self.num_originals} samples, got {tuple(tensor.shape)}.")
        if self.ranks is not None:
            tensor = self.ranks.gather(tensor)
        return tensor[self.index_a], tensor[self.index_b]

    def soft_targets(self, num_classes: int) -> Tensor:
        """Targets as distributions ``lam * y_a + (1 - lam) * y_b`` (Eq. 15), shape ``(N, ..., num_classes)``.

        For class indices ``(N,)`` or ``(N, L)``, where ignored labels such as -100 give zeros, and for targets that are
        distributions already. Where only one of the two sources has a token, that token's target is unmixed.
        """
        (first, second), (first_mask, second_mask) = self._targets(None, None)
        if not first.is_floating_point():
            check_values(torch.maximum(first, second) < num_classes, f"Labels must be below num_classes={num_classes}.")
        return functional.interpolate_targets(
            first, second, self.lam, num_classes, first_mask=first_mask, second_mask=second_mask
        )

    def originals(self, tensor: Tensor) -> Tensor:
        """The rows of ``tensor``, shape ``(N, ...)``, that belong to the batch itself, in its order: for metrics."""
        if tensor.shape[:1] != self.lam.shape:
            raise ValueError(f"Expected {len(self.lam)} rows, got a tensor of shape {tuple(tensor.shape)}.")
        return tensor[: self.num_originals]

    def stats(self) -> dict[str, float]:
        """Numbers to log: rows by origin, their weight in the loss, lambda. Waits for the device once."""
        numbers: dict[str, Tensor] = {}
        for origin in Origin:
            of_origin = self.origin == origin
            numbers[f"rows/{origin.name.lower()}"] = of_origin.sum()
            numbers[f"weight/{origin.name.lower()}"] = torch.where(of_origin, self.weight, 0).sum()
        if self.num_synthetic:
            numbers["lam/mean"] = self.lam[-self.num_synthetic :].mean()
        if self.attention is not None:
            numbers["attention/entropy"] = torch.special.entr(self.attention.detach()).sum(-1).mean()
        values: list[float] = torch.stack([number.double() for number in numbers.values()]).tolist()
        return dict(zip(numbers, values, strict=True))


# So that a mixer can be the output of an exported program.
torch.export.register_dataclass(MixedBatch)
