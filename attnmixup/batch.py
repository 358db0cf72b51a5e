"""What goes into AttnMixup, checked: embeddings, targets, their masks, and which samples may be mixed."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from attnmixup import functional
from attnmixup.checks import check_mask


@dataclass(frozen=True, eq=False)
class Batch:
    """B samples; :meth:`attnmixup.AttnMixup.forward` documents the fields.

    Raises:
        ValueError: If shapes do not go together.
        TypeError: If ``target_mask`` is not boolean.
    """

    embeddings: Tensor
    targets: Tensor | None
    mask: Tensor | None
    target_mask: Tensor | None
    group: Tensor | None

    def __post_init__(self) -> None:
        size = self.size
        if self.targets is not None and self.targets.shape[:1] != (size,):
            raise ValueError(f"targets must have one row for each of {size} samples, got {tuple(self.targets.shape)}.")
        if self.target_mask is not None:
            if self.targets is None or self.targets.ndim < 2:
                raise ValueError("target_mask goes with targets of shape (B, L, ...).")
            check_mask("target_mask", self.target_mask, self.targets.shape[:2])
        if self.group is not None and (self.group.shape != (size,) or self.group.is_floating_point()):
            raise ValueError(
                f"group must be integer and of shape ({size},), got {self.group.dtype} {tuple(self.group.shape)}."
            )

    def replace_embeddings(self, embeddings: Tensor) -> "Batch":
        """The same batch with other embeddings of the same shape."""
        return Batch(embeddings, self.targets, self.mask, self.target_mask, self.group)

    @property
    def size(self) -> int:
        """Number of samples B; not ``len()``, which would fix it for ``torch.export``."""
        return self.embeddings.shape[0]

    @property
    def valid(self) -> Tensor:
        """1 for a real sample and 0 for padding, shape ``(B,)``."""
        if self.mask is None:
            return torch.ones(self.size, dtype=torch.float32, device=self.embeddings.device)
        return (self.mask if self.mask.ndim == 1 else self.mask.any(1)).float()

    @property
    def pairing_group(self) -> Tensor:
        """Samples of one number may be mixed, shape ``(B,)``: ``group``, with padding in groups of its own."""
        return self.valid.long() if self.group is None else 2 * self.group + self.valid.long()

    @property
    def pooled(self) -> Tensor:
        """One vector of each sample, shape ``(B, C)``: its row, or the mean of its real tokens."""
        return functional.masked_mean(self.embeddings, self.mask) if self.embeddings.ndim == 3 else self.embeddings

    @property
    def token_mask(self) -> Tensor | None:
        """Mask of the embeddings' tokens, shape ``(B, L)``, if there are any."""
        return self.mask if self.embeddings.ndim == 3 else None

    @property
    def scored_mask(self) -> Tensor | None:
        """Mask of the targets' tokens: ``target_mask``, or ``mask`` if the targets have the same tokens."""
        if self.target_mask is not None or self.targets is None or self.token_mask is None or self.targets.ndim < 2:
            return self.target_mask
        if self.targets.shape[:2] != self.token_mask.shape:
            return None
        if self.targets.ndim == 2 and self.targets.is_floating_point() and not torch.compiler.is_compiling():
            warnings.warn(
                f"Floating-point targets {tuple(self.targets.shape)} are as wide as the mask and are taken as "
                "one value for each token. Pass target_mask to say which of them count: mask itself, or all True for "
                "several labels of a sample.",
                stacklevel=6,
            )
        return self.token_mask
