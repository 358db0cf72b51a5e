"""SemanticKLLoss: pull the distribution of the image towards that of the fused text (Eq. 6-7)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from attnmixup import diagnostics, functional
from attnmixup.checks import check_choice, check_dtype, check_mask
from attnmixup.functional import Direction

Project = Literal["text", "image", "both", "none"]
Pool = Literal["mean", "first", "token"]
Reduction = Literal["batchmean", "sum", "none"]


class SemanticKLLoss(nn.Module):
    """Semantic loss ``KL(p(gamma) || p(beta))`` between fused text and image (Eq. 6-7).

    The text is the prior: ``p(gamma)`` is the softmax over the features of the linearly mapped text and ``p(beta)`` is
    the softmax over the image embedding. The loss is the sum over features, averaged over samples. The paper's release
    instead maps the image's 1000 class logits to the text's width:
    ``SemanticKLLoss(text_dim, 1000, project="image")``.

    Args:
        text_dim: Width of the text embeddings.
        image_dim: Width of the image embeddings (2048 for the pooled last stage of a ResNet-50).
        project: The side with the linear map: ``"text"`` to the image's width, ``"image"`` to the text's, ``"both"`` to
            ``shared_dim``, or ``"none"`` if the widths are equal.
        shared_dim: Output width of both maps for ``project="both"``.
        pool: Reduction of a text sequence ``(B, L, C)``: the ``"mean"`` over real tokens, the ``"first"`` real token,
            or ``"token"``, which compares every token with the image and averages.
        temperature: Divides the logits of both sides.
        direction: ``"text_to_image"`` is KL(text || image), ``"image_to_text"`` is KL(image || text), ``"symmetric"``
            is the Jensen-Shannon divergence.
        detach_prior: Send no gradient to the text; its linear map still learns.
        detach_image: Send no gradient to the image; its linear map still learns. Use it if this loss would hold back an
            image encoder that learns from the task.
        standardize: Give the logits of both sides mean 0 and standard deviation 1 in every row before the softmax.
            Without it the distributions can become flat, where the loss is 0 and carries no information.
        contrast: Weight of a second term, ``-log softmax_j(-KL_ij)`` at j = i (InfoNCE over the divergence). Each text
            must identify its image among those of the other samples of the batch, which rules out one constant
            distribution. Samples with the very same image are not contrasted. 0 leaves the term out.
        reduction: ``"batchmean"`` (over samples), ``"sum"`` or ``"none"``.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
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
            raise ValueError(
                f'shared_dim and project="both" go together, got shared_dim={shared_dim} with project={project!r}.'
            )
        if detach_prior and detach_image and project == "none":
            raise ValueError('detach_prior and detach_image leave nothing to train with project="none".')
        if project == "none" and text_dim != image_dim:
            raise ValueError(f'project="none" needs equal widths, got text_dim={text_dim} and image_dim={image_dim}.')
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}.")
        if not 0 <= contrast < math.inf:
            raise ValueError(f"contrast must be 0 or more and finite, got {contrast}.")
        if contrast and pool == "token":
            raise ValueError('contrast compares whole samples: use pool="mean" or "first".')
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
            sample_mask: Boolean, shape ``(B,)``, False for a sample without an image, which does not count in the loss.

        Returns:
            A scalar, or shape ``(B,)`` for ``reduction="none"``, where samples that do not count are 0.
        """
        text, image, sample_mask = self._zero_padded(text, image, mask, sample_mask)
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
        """Compute the log-probabilities that the loss compares, without gradient.

        Args:
            text: Shape ``(B, C)`` or ``(B, L, C)``; ``pool="token"`` uses the mean of the tokens here.
            image: Shape ``(N, image_dim)``.
            mask: Boolean, shape ``(B, L)``, True for a real token.

        Returns:
            Those of the texts, shape ``(B, D)``, and of the images, shape ``(N, D)``; D is the width after projection.
        """
        self._check(text, image, mask)
        with torch.no_grad():
            if text.ndim == 3:
                text = self._pooled(text if mask is None else text.masked_fill(~mask.unsqueeze(-1), 0), mask)
            log_text, log_image = (functional.log_softmax(side, self.temperature) for side in self._logits(text, image))
        return log_text, log_image

    def divergences(self, text: Tensor, image: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Compute the divergence of every text from every image, to check if its own image is nearest; no gradient.

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
        """Measure the mean divergence of texts from their own image, and from the images of other samples.

        Equal numbers mean that one distribution shared by all samples satisfies the loss.

        Args:
            text: As in :meth:`divergences`.
            image: Shape ``(B, D)``.
            mask: Boolean, shape ``(B, L)``, True for a real token.
            sample_mask: Boolean, shape ``(B,)``, False for a sample without an image.

        Returns:
            Means in nats, ``semantic/own`` for own images and ``semantic/other`` for other images.

        Raises:
            ValueError: If fewer than two samples have an image.
        """
        text, image, sample_mask = self._zero_padded(text, image, mask, sample_mask)
        return diagnostics.semantic_stats(self.divergences(text, image, mask=mask), sample_mask)

    def _check(self, text: Tensor, image: Tensor, mask: Tensor | None) -> None:
        fits = text.ndim in (2, 3) and text.shape[-1] == self.text_dim
        if not fits or image.ndim != 2 or image.shape[1] != self.image_dim:
            raise ValueError(
                f"Expected text (B, {self.text_dim}) or (B, L, {self.text_dim}) and image (B, {self.image_dim}), got "
                f"{tuple(text.shape)} and {tuple(image.shape)}."
            )
        for name, side, projection in (
            ("text", text, self.text_projection),
            ("image", image, self.image_projection),
        ):
            if projection is not None:
                check_dtype(name, side, projection.weight)
        if mask is not None:
            check_mask("mask", mask, text.shape[:-1])

    def _zero_padded(
        self, text: Tensor, image: Tensor, mask: Tensor | None, sample_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return text and image with zeros where they are masked, and which samples have text and image."""
        self._check(text, image, mask)
        if image.shape[0] != text.shape[0]:
            raise ValueError(f"Expected one image per text, got {image.shape[0]} images for {text.shape[0]} texts.")
        if sample_mask is not None:
            check_mask("sample_mask", sample_mask, text.shape[:1])
        if mask is not None:
            present = mask if mask.ndim == 1 else mask.any(1)
            sample_mask = present if sample_mask is None else sample_mask & present
        if sample_mask is None:
            return text, image, None
        # Masked values are replaced before use: 0 times NaN would be NaN in the loss or in a gradient.
        used = sample_mask.view(-1, *[1] * (text.ndim - 2))
        text = text.masked_fill(~(used if mask is None else used & mask).unsqueeze(-1), 0)
        return text, image.masked_fill(~sample_mask.unsqueeze(-1), 0), sample_mask

    def _pooled(self, text: Tensor, mask: Tensor | None) -> Tensor:
        """Pool each text to one vector; ``text`` must be 0 where the mask is False."""
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
    """Return whether two rows differ at all, shape ``(B, B)``, without storing ``B x B x D`` numbers."""
    wide = functional.upcast(rows)
    return torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist") > 0


def _first_token(text: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return text[:, 0]
    first = mask.to(torch.uint8).argmax(1)
    return text[torch.arange(text.shape[0], device=text.device), first]
