"""The checked input of AttnMixup: embeddings, targets, masks, and groups of samples that may be mixed."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from attnmixup import functional
from attnmixup.checks import check_mask


@dataclass(frozen=True, eq=False)
class Batch:
    """Input of B samples; :meth:`attnmixup.AttnMixup.forward` documents the fields.

    Raises:
        ValueError: If shapes do not match.
        TypeError: If ``target_mask`` is not boolean.
    """

    embeddings: Tensor
    targets: Tensor | None
    mask: Tensor | None
    target_mask: Tensor | None
    group: Tensor | None

    def __post_init__(self) -> None:
        if not all(
            given is None or isinstance(given, Tensor) for given in (self.targets, self.target_mask, self.group)
        ):
            raise TypeError("targets, target_mask and group must be tensors.")
        size = self.size
        if self.targets is not None and self.targets.shape[:1] != (size,):
            raise ValueError(f"targets must have one row for each of {size} samples, got {tuple(self.targets.shape)}.")
        if self.target_mask is not None:
            if self.targets is None or self.targets.ndim < 2:
                raise ValueError("target_mask needs targets of shape (B, L, ...).")
            check_mask("target_mask", self.target_mask, self.targets.shape[:2])
        if self.group is not None and (self.group.shape != (size,) or self.group.is_floating_point()):
            raise ValueError(
                f"group must be integer and of shape ({size},), got {self.group.dtype} {tuple(self.group.shape)}."
            )

    def replace_embeddings(self, embeddings: Tensor) -> "Batch":
        """Return the batch with other embeddings of the same shape."""
        return Batch(embeddings, self.targets, self.mask, self.target_mask, self.group)

    @property
    def size(self) -> int:
        """Number of samples B. ``torch.export`` would turn ``len()`` into a constant."""
        return self.embeddings.shape[0]

    @property
    def valid(self) -> Tensor:
        """1 for a real sample and 0 for padding, shape ``(B,)``."""
        if self.mask is None:
            return torch.ones(self.size, dtype=torch.float32, device=self.embeddings.device)
        return (self.mask if self.mask.ndim == 1 else self.mask.any(1)).float()

    @property
    def pairing_group(self) -> Tensor:
        """Group numbers, shape ``(B,)``: only samples of one number are mixed, and padding has separate numbers."""
        return pairing_group(self.valid, self.group)

    @property
    def pooled(self) -> Tensor:
        """One vector per sample, shape ``(B, C)``: its row, or the mean of its real tokens."""
        return functional.masked_mean(self.embeddings, self.mask) if self.embeddings.ndim == 3 else self.embeddings

    @property
    def token_mask(self) -> Tensor | None:
        """Mask of the embeddings' tokens, shape ``(B, L)``; None without tokens or without a mask."""
        return self.mask if self.embeddings.ndim == 3 else None

    @property
    def scored_mask(self) -> Tensor | None:
        """Mask of the targets' tokens: ``target_mask``, or ``mask`` if the targets have the same tokens."""
        if self.target_mask is not None or self.targets is None:
            return self.target_mask
        return mask_of_targets(self.targets, self.token_mask)


def pairing_group(valid: Tensor, group: Tensor | None) -> Tensor:
    """Number the samples by group, and real samples and padding differently.

    Args:
        valid: 1 for a real sample and 0 for padding, shape ``(B,)``.
        group: Integer, shape ``(B,)``; None for one group.

    Returns:
        Integer, shape ``(B,)``; samples of different numbers are never mixed.
    """
    return valid.long() if group is None else 2 * group.long() + valid.long()


def mask_of_targets(targets: Tensor, token_mask: Tensor | None) -> Tensor | None:
    """Choose the mask of targets that have no mask of their own.

    Args:
        targets: Shape ``(B, ...)``.
        token_mask: Boolean, shape ``(B, L)``; None without a mask of tokens.

    Returns:
        ``token_mask`` if the targets have one entry per token, shape ``(B, L, ...)``; else None.
    """
    if token_mask is None or targets.shape[:2] != token_mask.shape:
        return None
    if targets.ndim == 2 and targets.is_floating_point() and not torch.compiler.is_compiling():
        warnings.warn(
            f"Floating-point targets {tuple(targets.shape)} have the shape of the mask and are taken as one value per "
            "token. Pass target_mask to define which of them count: the mask itself, or all True for multi-label "
            "targets.",
            stacklevel=7,
        )
    return token_mask
