"""SemanticKLLoss: pull the image's distribution towards that of the fused text (Eq. 6-7)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from attnmixup import diagnostics, functional
from attnmixup.checks import check_choice, check_mask
from attnmixup.functional import Direction

Project = Literal["text", "image", "both", "none"]
Pool = Literal["mean", "first", "token"]
Reduction = Literal["batchmean", "sum", "none"]


class SemanticKLLoss(nn.Module):
    """Semantic loss ``KL(p(gamma) || p(beta))`` between fused text and image (Eq. 6-7).

    The text is the prior: ``p(gamma)`` is the softmax over the features of the linearly mapped text, ``p(beta)`` that
    of the image embedding, and the loss is the sum over features, averaged over samples. The paper's release instead
    maps the image's 1000 class logits to the text's width: ``SemanticKLLoss(text_dim, 1000, project="image")``.

    Args:
        text_dim: Width of the text embeddings.
        image_dim: Width of the image embeddings (2048 for the pooled last stage of a ResNet-50).
        project: The side with the linear map: ``"text"`` to the image's width, ``"image"`` to the text's, ``"both"`` to
            ``shared_dim``, or ``"none"`` where the widths are equal.
        shared_dim: The width to which ``project="both"`` maps.
        pool: Of a text sequence ``(B, L, C)``, use the ``"mean"`` over real tokens, the ``"first"`` real token, or
            compare every ``"token"`` with the image and average.
        temperature: Divides the logits of both sides.
        direction: ``"text_to_image"`` is KL(text || image), ``"image_to_text"`` its reverse, ``"symmetric"`` the
            Jensen-Shannon divergence.
        detach_prior: Send no gradient to the text; its linear map still learns.
        detach_image: Send no gradient to the image; its linear map still learns. For an image encoder that learns from
            the task, and that this loss would hold back.
        standardize: Give the logits of both sides mean 0 and deviation 1 in every row before the softmax, so that the
            distributions cannot become flat, which makes the loss 0 and says nothing.
        contrast: Weight of a second term, ``-log softmax_j(-KL_ij)`` at j = i: the image of each text is to be told
            from those of the other samples of the batch (InfoNCE over the divergence), which one constant distribution
            cannot do. Samples that show the very same image are not told apart. 0 leaves the term out.
        reduction: ``"batchmean"`` (over samples), ``"sum"`` or ``"none"``.
        device: Of the parameters.
        dtype: Of the parameters.
    """

    def __init__(
        self,
        text_dim: int,
        image_dim: int,
        *,
        project: Project = "text",
        shared_dim: int | None = None,
        pool: Pool = "mean",
        temperature: float = 1.0,
        direction: Direction = "text_to_image",
        detach_prior: bool = False,
        detach_image: bool = False,
        standardize: bool = False,
        contrast: float = 0.0,
        reduction: Reduction = "batchmean",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice("project", project, Project)
        check_choice("pool", pool, Pool)
        check_choice("direction", direction, Direction)
        check_choice("reduction", reduction, Reduction)
        if (project == "both") != (shared_dim is not None):
            raise ValueError(f'shared_dim goes with project="both", got {shared_dim} with project={project!r}.')
        if detach_prior and detach_image and project == "none":
            raise ValueError('detach_prior and detach_image leave nothing to learn with project="none".')
        if project == "none" and text_dim != image_dim:
            raise ValueError(f'project="none" needs equal widths, got text_dim={text_dim} and image_dim={image_dim}.')
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        if not 0 <= contrast < math.inf:
            raise ValueError(f"contrast must be 0 or more and finite, got {contrast}.")
        if contrast and pool == "token":
            raise ValueError('contrast compares whole samples: it goes with pool="mean" or "first".')
        self.text_dim, self.image_dim = text_dim, image_dim
        self.pool, self.temperature, self.direction = pool, temperature, direction
        self.detach_prior, self.detach_image, self.reduction = detach_prior, detach_image, reduction
        self.standardize, self.contrast = standardize, contrast
        self.text_projection = self.image_projection = None
        if project in ("text", "both"):
            self.text_projection = nn.Linear(text_dim, shared_dim or image_dim, device=device, dtype=dtype)
        if project in ("image", "both"):
            self.image_projection = nn.Linear(image_dim, shared_dim or text_dim, device=device, dtype=dtype)

    def forward(
        self, text: Tensor, image: Tensor, *, mask: Tensor | None = None, sample_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the loss.

        Args:
            text: Shape ``(B, C)`` or ``(B, L, C)``.
            image: Shape ``(B, D)``.
            mask: Boolean, shape ``(B, L)``, True for a real token; with a text sequence only.
            sample_mask: Boolean, shape ``(B,)``, False for a sample without an image, which has no part in the loss.

        Returns:
            A scalar, or shape ``(B,)`` for ``reduction="none"``; samples without a part are 0 there.
        """
        batch = text.shape[:1]
        if text.ndim not in (2, 3) or text.shape[-1] != self.text_dim or image.shape != (*batch, self.image_dim):
            raise ValueError(
                f"Expected text (B, {self.text_dim}) or (B, L, {self.text_dim}) and image (B, {self.image_dim}), got "
                f"{tuple(text.shape)} and {tuple(image.shape)}."
            )
        if mask is not None:
            check_mask("mask", mask, text.shape[:-1])
        if sample_mask is not None:
            check_mask("sample_mask", sample_mask, batch)
        # What is masked is replaced before it is used: 0 times NaN would be NaN, in the loss or in a gradient.
        if mask is not None:
            present = mask if mask.ndim == 1 else mask.any(1)
            sample_mask = present if sample_mask is None else sample_mask & present
        if sample_mask is not None:
            image = image.masked_fill(~sample_mask.unsqueeze(-1), 0)
            used = sample_mask.view(-1, *[1] * (text.ndim - 2))
            text = text.masked_fill(~(used if mask is None else used & mask).unsqueeze(-1), 0)
        if text.ndim == 3 and self.pool != "token":
            text = self._pooled(text, mask)
        per_token = text.ndim == 3

        prior, visual = self._logits(text, image)
        rows = functional.semantic_kl(
            prior,
            visual.unsqueeze(1).expand(-1, text.shape[1], -1) if per_token else visual,
            temperature=self.temperature,
            direction=self.direction,
        )
        if self.contrast:
            told_apart = _differ(image.detach())
            if sample_mask is not None:
                told_apart = told_apart & sample_mask
            divergences = functional.pairwise_semantic_kl(
                prior, visual, temperature=self.temperature, direction=self.direction
            )
            rows = rows + self.contrast * functional.semantic_contrast(divergences, told_apart)
        if per_token:
            rows = functional.masked_mean(rows.unsqueeze(-1), mask).squeeze(-1)
        counted = rows if sample_mask is None else rows.masked_fill(~sample_mask, 0)
        if self.reduction == "none":
            return counted
        if self.reduction == "sum" or sample_mask is None:
            return counted.sum() if self.reduction == "sum" else counted.mean()
        return counted.sum() / sample_mask.sum().clamp_min(1)

    def distributions(self, text: Tensor, image: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the loss compares, without gradient: log-probabilities of the texts ``(B, D)`` and images ``(N, D)``.

        Args:
            text: Shape ``(B, C)`` or ``(B, L, C)``; for ``pool="token"`` the mean of its tokens stands for it.
            image: Shape ``(N, image_dim)``.
            mask: Boolean, shape ``(B, L)``, True for a real token.
        """
        with torch.no_grad():
            if text.ndim == 3:
                text = self._pooled(text if mask is None else text.masked_fill(~mask.unsqueeze(-1), 0), mask)
            sides = self._logits(text, image)
            log_text, log_image = ((functional.upcast(side) / self.temperature).log_softmax(-1) for side in sides)
        return log_text, log_image

    def divergences(self, text: Tensor, image: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Divergence of every text from every image, without gradient: to see whether its own image is the nearest.

        Args:
            text: As in :meth:`distributions`.
            image: As in :meth:`distributions`.
            mask: As in :meth:`distributions`.

        Returns:
            Shape ``(B, N)``, in nats.
        """
        return functional.pairwise_semantic_kl(*self.distributions(text, image, mask=mask), direction=self.direction)

    def stats(
        self, text: Tensor, image: Tensor, *, mask: Tensor | None = None, sample_mask: Tensor | None = None
    ) -> dict[str, float]:
        """Mean divergence of texts from their ``semantic/own`` image and from ``semantic/other`` images, in nats.

        Equal numbers mean that the loss is met by a distribution that is the same for all samples.

        Args:
            text: As in :meth:`divergences`.
            image: Shape ``(B, D)``.
            mask: Boolean, shape ``(B, L)``, True for a real token.
            sample_mask: Boolean, shape ``(B,)``, False for a sample without an image.

        Raises:
            ValueError: Fewer than two samples have an image.
        """
        return diagnostics.semantic_stats(self.divergences(text, image, mask=mask), sample_mask)

    def _pooled(self, text: Tensor, mask: Tensor | None) -> Tensor:
        """Of each text, 0 where the mask is False, what stands for it."""
        return _first_token(text, mask) if self.pool == "first" else functional.zero_padded_mean(text, mask)

    def _logits(self, text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        text = text.detach() if self.detach_prior else text
        image = image.detach() if self.detach_image else image
        prior = text if self.text_projection is None else self.text_projection(text)
        visual = image if self.image_projection is None else self.image_projection(image)
        return (
            (functional.standardized(prior), functional.standardized(visual)) if self.standardize else (prior, visual)
        )


def _differ(rows: Tensor) -> Tensor:
    """Whether two rows differ at all, shape ``(B, B)``, without holding ``B x B x D`` numbers."""
    wide = functional.upcast(rows)
    return torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist") > 0


def _first_token(text: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return text[:, 0]
    first = mask.to(torch.uint8).argmax(1)
    return text[torch.arange(text.shape[0], device=text.device), first]
