"""MixedBatch: the result of AttnMixup, with rows, pairs of targets, lambda, and the origin of each row."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from attnmixup import distributed, functional
from attnmixup.batch import mask_of_targets
from attnmixup.checks import check_choice, check_mask, check_values
from attnmixup.criteria import Criterion, MeanOver, Per, Reduction, reduction_of, row_losses


class Origin(IntEnum):
    """Where a row of the final set came from."""

    ORIGINAL = 0
    TRANSFORMED = 1
    SYNTHETIC = 2


@dataclass(frozen=True, eq=False)
class MixedBatch:
    """The final set of Eq. 16, N rows: first the original, then the transformed, then the synthetic rows.

    Each row mixes two source rows, the first with weight ``lam`` and the second with ``1 - lam``. Original and
    transformed rows have a single source, ``index_a == index_b`` and ``lam == 1``.

    Attributes:
        embeddings: Shape ``(N, C)`` or ``(N, L, C)``.
        targets_a: Targets of the first source, shape ``(N, ...)``, or None if no targets were given.
        targets_b: Targets of the second source.
        lam: Weight of the first source, shape ``(N,)``.
        mask: Real tokens of the embeddings, where at least one source has a token, shape ``(N, L)``; None without a
            mask.
        mask_a: Real tokens of ``targets_a``, shape ``(N, L)``; None if the targets are not per token.
        mask_b: Real tokens of ``targets_b``.
        weight: Weight of each row in the loss, shape ``(N,)``. For a criterion that returns one value per row, the loss
            is ``sum(weight * row_losses)`` if no label is ignored. The weights sum to 1, or to up to 2 if real and
            synthetic rows are averaged apart. In a share of a global batch this holds for the mean over the ranks.
            Padding samples have weight 0.
        valid: False for rows made of padding samples, shape ``(N,)``.
        origin: :class:`Origin` of each row, shape ``(N,)``.
        index_a: Row of the (global) batch that is the first source, shape ``(N,)``. Use :meth:`take` to select the same
            rows from other tensors.
        index_b: Row of the (global) batch that is the second source.
        num_originals: Number of leading original rows.
        num_synthetic: Number of trailing synthetic rows.
        token_mask: Real tokens of the samples of this rank, shape ``(B, L)``; None without a mask of tokens.
        apart: Whether real and synthetic rows are averaged apart.
        attention: Weights of the attention across samples, if requested.
        ranks: The ranks that share the global batch; None for a local batch.
    """

    embeddings: Tensor
    targets_a: Tensor | None
    targets_b: Tensor | None
    lam: Tensor
    mask: Tensor | None
    mask_a: Tensor | None
    mask_b: Tensor | None
    weight: Tensor
    valid: Tensor
    origin: Tensor
    index_a: Tensor
    index_b: Tensor
    num_originals: int
    num_synthetic: int
    token_mask: Tensor | None = None
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
        """Compute the loss, ``lam * l(outputs, targets_a) + (1 - lam) * l(outputs, targets_b)`` for each row (Eq. 15).

        In evaluation and at strength 0 this is PyTorch's own loss of the batch, including class weights, label
        smoothing and ignored labels. In training each row of the final set adds its losses to the numerator of that
        mean and its tokens (or their class weights) to the denominator, both times the weight of the row. For a mixed
        row both are lambda times the value of the first source plus 1 - lambda times the value of the second. An
        ignored label adds to neither.

        Args:
            criterion: A loss function or loss module of PyTorch, such as ``F.cross_entropy``, a ``functools.partial``
                of it, or ``nn.CrossEntropyLoss(weight=...)``. Or any callable of ``(outputs, targets)`` that returns
                one loss per row, such as the negative log-likelihood of a CRF; if the targets have a mask, the callable
                must accept it as the keyword argument ``mask``.
            outputs: Output of the head for ``embeddings``, shape ``(N, ...)``, classes last.
            per: ``"element"`` if a custom callable returns one loss for each of the flattened outputs ``(N, K)`` or
                ``(N * L, K)``; ``"row"`` if it returns one loss per row. None is ``"element"`` for PyTorch's losses and
                ``"row"`` for others.
            targets: Targets to use instead of those given to the mixer, shape ``(B, ...)``, so that several heads can
                share one mixed batch.
            target_mask: Mask of ``targets``, shape ``(B, L)``. None is the mixer's ``mask`` if the targets have the
                same tokens.
            mean_over: Mean over all ``"tokens"``, as in PyTorch, or over ``"rows"`` after a mean over each row's
                tokens.
            reduction: ``"mean"``; ``"none"`` for the unweighted mean over the tokens of each row, shape ``(N,)``; or
                ``"sum"``, the mean times the number (or class weights) of the original tokens, which keeps the scale of
                the batch. None is ``"sum"`` if the criterion has ``reduction="sum"``, else ``"mean"``.

        Returns:
            A scalar, or shape ``(N,)`` for ``reduction="none"``.

        Raises:
            ValueError: If there are no targets, shapes do not match, or the criterion returns an unexpected shape.

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
        real = outputs.shape[0] - self.num_synthetic
        live = self.valid if reduction == "none" else self.weight > 0
        over: MeanOver = "rows" if reduction == "none" else mean_over
        losses = row_losses(criterion, outputs, first, first_mask, live, per, valid=self.valid)
        total, norm = losses.parts(over)
        if self.num_synthetic:
            # Only synthetic rows have a second target. A slow criterion such as a CRF does not score the others twice.
            mask = None if second_mask is None else second_mask[real:]
            others = row_losses(
                criterion, outputs[real:], second[real:], mask, live[real:], per, valid=self.valid[real:]
            )
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
        """Return targets and masks of both sources."""
        if targets is None:
            if target_mask is not None:
                raise ValueError("target_mask needs targets: pass both or neither.")
            if self.targets_a is None or self.targets_b is None:
                raise ValueError("This batch has no targets: pass them to AttnMixup, as in mixer(embeddings, targets).")
            return (self.targets_a, self.targets_b), (self.mask_a, self.mask_b)
        if target_mask is None:
            target_mask = mask_of_targets(targets, self.token_mask)
        else:
            check_mask("target_mask", target_mask, targets.shape[: target_mask.ndim])
        if self.ranks is None or targets.ndim == 1:
            return self.take(targets), (None, None) if target_mask is None else self.take(target_mask)
        # One exchange on every rank, with or without a mask. What a shorter rank lacks is padded with False.
        if target_mask is None:
            target_mask = torch.ones(targets.shape[:2], dtype=torch.bool, device=targets.device)
        targets, target_mask = self.ranks.gather(targets, target_mask)
        masks = (None, None) if bool(target_mask.all()) else (target_mask[self.index_a], target_mask[self.index_b])
        return (targets[self.index_a], targets[self.index_b]), masks

    def _mean(self, total: Tensor, norm: Tensor, weight: Tensor) -> Tensor:
        """Return the mean over some rows, times the sum of their weights."""
        shares, whole = self._over_ranks(torch.stack([(weight * norm).sum(), weight.sum()])).unbind()
        # If no row counts, the numerator is 0 too.
        return (weight * total).sum() / torch.where(shares > 0, shares, 1) * whole

    def _over_ranks(self, sums: Tensor) -> Tensor:
        """Return the mean over the ranks of a global batch; for a local batch, return ``sums`` unchanged."""
        return sums if self.ranks is None else self.ranks.mean(sums)

    def take(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Select the rows of a per-sample tensor that belong to the first and the second source of each mixed row.

        Args:
            tensor: Shape ``(B, ...)``, one row per sample of this rank. In a global batch every rank must make this
                call.

        Returns:
            Two tensors of shape ``(N, ...)``.

        Raises:
            ValueError: If the tensor does not have B rows.
        """
        if tensor.shape[:1] != (self.num_originals,):
            raise ValueError(f"Expected one row for each of {self.num_originals} samples, got {tuple(tensor.shape)}.")
        if self.ranks is not None:
            (tensor,) = self.ranks.gather(tensor)
        return tensor[self.index_a], tensor[self.index_b]

    def soft_targets(self, num_classes: int) -> Tensor:
        """Return the mixed targets ``lam * y_a + (1 - lam) * y_b`` (Eq. 15), shape ``(N, ..., num_classes)``.

        The targets can be class indices ``(N,)`` or ``(N, L)``, where ignored labels such as -100 give zeros, or
        distributions. Where only one of the two sources has a token, the target of that token is unmixed.
        """
        (first, second), (first_mask, second_mask) = self._targets(None, None)
        if not first.is_floating_point():
            check_values(torch.maximum(first, second) < num_classes, f"Labels must be below num_classes={num_classes}.")
        return functional.interpolate_targets(
            first, second, self.lam, num_classes, first_mask=first_mask, second_mask=second_mask
        )

    def originals(self, tensor: Tensor) -> Tensor:
        """Return the rows of ``tensor``, shape ``(N, ...)``, of the original samples in batch order."""
        if tensor.shape[:1] != self.lam.shape:
            raise ValueError(f"Expected {len(self.lam)} rows, got a tensor of shape {tuple(tensor.shape)}.")
        return tensor[: self.num_originals]

    def stats(self) -> dict[str, float]:
        """Return numbers to log: rows by origin, their weight in the loss, lambda. Waits for the device once."""
        numbers: dict[str, Tensor] = {}
        for origin in Origin:
            of_origin = self.origin == origin
            numbers[f"rows/{origin.name.lower()}"] = of_origin.sum()
            numbers[f"weight/{origin.name.lower()}"] = torch.where(of_origin, self.weight, 0).sum()
        if self.num_synthetic:
            numbers["lam/mean"] = self.lam[-self.num_synthetic :].mean()
        values: list[float] = torch.stack([number.double() for number in numbers.values()]).tolist()
        return dict(zip(numbers, values, strict=True))


# Allows a MixedBatch as output of an exported program.
torch.export.register_dataclass(MixedBatch)
