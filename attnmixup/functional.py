"""The equations of both modules as pure functions; everything random is passed as an argument."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from attnmixup import tiled

Direction = Literal["text_to_image", "image_to_text", "symmetric"]
Score = Callable[[Tensor, Tensor], Tensor]


def semantic_kl(
    text: Tensor,
    image: Tensor,
    *,
    temperature: float = 1.0,
    direction: Direction = "text_to_image",
) -> Tensor:
    """Compute the divergence between the softmax distributions of text and image, row by row (Eq. 7).

    ``KL(text || image) = sum_c p_c (log p_c - log q_c)`` with ``p = softmax(text)`` and ``q = softmax(image)`` over the
    last axis. It is computed in log space and in at least float32: finite for all finite inputs, 0 for equal inputs.

    Args:
        text: Logits of the prior, shape ``(..., D)``.
        image: Logits pulled towards the prior, same shape.
        temperature: Divides both sides before the softmax.
        direction: ``"text_to_image"`` is KL(text || image), ``"image_to_text"`` is KL(image || text) and
            ``"symmetric"`` is the Jensen-Shannon divergence.

    Returns:
        One value per row, shape ``(...)``.

    Raises:
        ValueError: If the two shapes differ.

    Example:
        >>> semantic_kl(torch.zeros(1, 2), torch.log(torch.tensor([[0.25, 0.75]])))
        tensor([0.1438])
    """
    if text.shape != image.shape:
        raise ValueError(
            f"text and image must be logits over the same features, got shapes {tuple(text.shape)} and "
            f"{tuple(image.shape)}; project one of them first."
        )
    log_text = log_softmax(text, temperature)
    log_image = log_softmax(image, temperature)
    if direction == "text_to_image":
        return _kl(log_text, log_image)
    if direction == "image_to_text":
        return _kl(log_image, log_text)
    high, low = torch.maximum(log_text, log_image), torch.minimum(log_text, log_image)
    # log((p + q) / 2), written so that it is exactly log p where p == q.
    log_middle = high + torch.log1p(torch.expm1(low - high) / 2)
    return (_kl(log_text, log_middle) + _kl(log_image, log_middle)) / 2


def pairwise_semantic_kl(
    text: Tensor,
    image: Tensor,
    *,
    temperature: float = 1.0,
    direction: Direction = "text_to_image",
) -> Tensor:
    """Compute :func:`semantic_kl` of every text with every image.

    Args:
        text: Shape ``(B, D)``.
        image: Shape ``(N, D)``.
        temperature: See :func:`semantic_kl`.
        direction: See :func:`semantic_kl`; ``"symmetric"`` stores ``B x N x D`` numbers at once.

    Returns:
        Shape ``(B, N)``.
    """
    if direction == "symmetric":
        texts, images = text[:, None].expand(-1, len(image), -1), image.expand(len(text), -1, -1)
        return semantic_kl(texts, images, temperature=temperature, direction=direction)
    log_text, log_image = log_softmax(text, temperature), log_softmax(image, temperature)
    if direction == "image_to_text":
        return _pairwise_kl(log_image, log_text).T
    return _pairwise_kl(log_text, log_image)


def _pairwise_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    probabilities = log_p.exp()
    with _without_autocast(log_p.device.type):
        return (probabilities * log_p).sum(-1, keepdim=True) - probabilities @ log_q.mT


def semantic_contrast(divergences: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the contrastive loss of identifying the image of each text: ``-log softmax_j(-D_ij)`` at j = i.

    This is InfoNCE (van den Oord et al. 2018) with the negative divergence as similarity. It is about log N if all N
    images are equally close.

    Args:
        divergences: D, text by image, shape ``(B, B)``.
        mask: Boolean, shape ``(B, B)``, True for an image that is contrasted with the text's own; None for all.

    Returns:
        Shape ``(B,)``, in nats.
    """
    logits = -divergences
    if mask is not None:
        own = torch.eye(logits.shape[0], dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(~(mask | own), torch.finfo(logits.dtype).min)
    return -logits.log_softmax(-1).diagonal()


def standardized(logits: Tensor) -> Tensor:
    """Give logits mean 0 and standard deviation 1 over the last axis, in at least float32; constant rows become 0."""
    wide = upcast(logits)
    centre = wide - wide.mean(-1, keepdim=True)
    return centre * (centre.square().mean(-1, keepdim=True) + 1e-12).rsqrt()


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Compute the log-softmax of ``logits / temperature`` over the last axis, finite and in at least float32."""
    logits = upcast(logits)
    centred = (logits - logits.detach().amax(-1, keepdim=True)) / temperature
    # Finite even where the distance to the maximum overflows, so that 0 * log 0 is 0.
    return centred.log_softmax(-1).clamp_min(torch.finfo(logits.dtype).min)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def upcast(tensor: Tensor) -> Tensor:
    """Return the tensor in at least float32: half precision is converted, float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _without_autocast(device: str) -> AbstractContextManager[object]:
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over the real tokens of every sample; zeros for a sample without real tokens.

    Args:
        tokens: Shape ``(B, L, C)``.
        mask: Boolean, shape ``(B, L)``, True for a real token; None if all are real.

    Returns:
        Shape ``(B, C)``.
    """
    return zero_padded_mean(tokens if mask is None else tokens.masked_fill(~mask.unsqueeze(-1), 0), mask)


def zero_padded_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Return :func:`masked_mean` of tokens that are already 0 where the mask is False, without masking them again.

    Args:
        tokens: Shape ``(B, L, C)``.
        mask: Boolean, shape ``(B, L)``, True for a real token; None if all are real.

    Returns:
        Shape ``(B, C)``.
    """
    wide = upcast(tokens)
    if mask is None:
        return wide.mean(1).to(tokens.dtype)
    return (wide.sum(1) / mask.sum(1, keepdim=True).clamp_min(1)).to(tokens.dtype)


def finite_padding(embeddings: Tensor, mask: Tensor | None) -> Tensor:
    """Replace padding that contains NaN or infinity by zeros, so that a head that multiplies padding by 0 gets 0.

    Args:
        embeddings: Shape ``(B, C)`` or ``(B, L, C)``.
        mask: Boolean, shape ``(B,)`` or ``(B, L)``, True for real samples or tokens; None if all are real.

    Returns:
        The shape of ``embeddings``; no gradient flows to replaced values.
    """
    if mask is None:
        return embeddings
    values = embeddings.detach()
    finite = values.amax(-1).isfinite() & values.amin(-1).isfinite()  # amax and amin are NaN if any value is
    return embeddings.masked_fill((~mask & ~finite).unsqueeze(-1), 0)


def additive_scores(query: Tensor, key: Tensor, vector: Tensor) -> Tensor:
    """Compute the scores ``r_ij = v^T tanh(query_i + key_j)`` of receiver i and sample j, per head (Eq. 8).

    ``query`` holds W_q h_i + b and ``key`` holds W_k h_j. A query of a single row that holds only the bias gives the
    literal Eq. 8, with the same scores for every sample. Above a certain size, the ``Q x B x width`` pairs are never
    stored in full but computed in tiles, and again in the backward pass. Under ``torch.compile`` the compiler fuses
    them into the sum instead. Second derivatives store all pairs.

    Args:
        query: Shape ``(..., heads, Q, width)``.
        key: Shape ``(..., heads, B, width)``.
        vector: Learned score vectors ``v``, shape ``(heads, width)``.

    Returns:
        Scores of shape ``(..., heads, Q, B)``, in at least float32.
    """
    query, key, vector = upcast(query), upcast(key), upcast(vector)
    with _without_autocast(query.device.type):
        in_tiles = query.shape[-2] * key.numel() > tiled.tile_elements(query.device)
        if in_tiles and not torch.compiler.is_compiling():
            return tiled.tiled_additive_scores(query, key, vector)
        return (torch.tanh(query.unsqueeze(-2) + key.unsqueeze(-3)) * vector[:, None, None]).sum(-1)


def dot_scores(query: Tensor, key: Tensor) -> Tensor:
    """Compute scaled dot products ``query_i . key_j / sqrt(width)``, with the shapes of :func:`additive_scores`."""
    with _without_autocast(query.device.type):
        return upcast(query) @ upcast(key).mT / math.sqrt(query.shape[-1])


def cosine_scores(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
    """Compute scaled cosines ``s cos(query_i, key_j)`` of receiver i and sample j, per head.

    Args:
        query: Shape ``(..., heads, Q, width)``.
        key: Shape ``(..., heads, B, width)``.
        scale: The inverse temperature s, shape ``(heads,)``.

    Returns:
        Scores of shape ``(..., heads, Q, B)``, in at least float32.
    """
    with _without_autocast(query.device.type):
        cosine = normalize(upcast(query), dim=-1) @ normalize(upcast(key), dim=-1).mT
        return upcast(scale)[:, None, None] * cosine


def centred(samples: Tensor, mask: Tensor | None = None) -> Tensor:
    """Subtract the mean over the samples, which is the part that all samples share.

    Args:
        samples: Shape ``(..., B, C)``.
        mask: Boolean, shape ``(..., B)``, True for samples that count in the mean; None for all.

    Returns:
        The shape and dtype of ``samples``.
    """
    wide = upcast(samples)
    if mask is None:
        return (wide - wide.mean(-2, keepdim=True)).to(samples.dtype)
    real = mask.unsqueeze(-1)
    mean = wide.masked_fill(~real, 0).sum(-2, keepdim=True) / real.sum(-2, keepdim=True).clamp_min(1)
    return (wide - mean).to(samples.dtype)


def attention_weights(scores: Tensor, mask: Tensor | None = None, own: Tensor | None = None) -> Tensor:
    """Compute the softmax over the samples attended to (Eq. 9, whose printed bound C can only be B).

    Args:
        scores: Shape ``(..., heads, Q, B)``.
        mask: Boolean, shape ``(..., B)``, True for a sample that may be attended to.
        own: Integer, shape ``(Q,)``: sample number of each receiver. It attends to itself only if there is no other.

    Returns:
        Weights over the last axis, shape ``(..., heads, Q, B)``. A masked sample has weight exactly 0; if all samples
        are masked the weights are uniform, never NaN.
    """
    lowest = torch.finfo(scores.dtype).min
    if own is not None:
        scores = scores.masked_fill(own[:, None] == torch.arange(scores.shape[-1], device=own.device), lowest / 2)
    if mask is not None:
        scores = scores.masked_fill(~mask[..., None, None, :], lowest)
    return scores.softmax(-1)


def sample_attention(
    score: Score,
    query: Tensor,
    key: Tensor,
    values: Tensor,
    *,
    mask: Tensor | None = None,
    own: Tensor | None = None,
    block_rows: int | None = None,
) -> Tensor:
    """Compute a weighted mean of the samples for every receiver and head: ``H'_i = sum_j alpha_ij H_j`` (Eq. 9-10).

    Args:
        score: Maps query and key to scores ``(..., heads, Q, B)``, such as :func:`dot_scores`.
        query: Shape ``(..., heads, Q, width)``.
        key: Shape ``(..., heads, B, width)``.
        values: Values of the samples, shape ``(..., 1, B, C)``, or ``(..., heads, B, C)`` if they differ by head.
        mask: Boolean, shape ``(..., B)``, True for a sample that may be attended to.
        own: See :func:`attention_weights`.
        block_rows: Number of receivers whose scores are in memory at a time; scores are recomputed in the backward
            pass. The result is the same. None processes all rows at once, as do torch.compile and torch.func.

    Returns:
        Shape ``(..., heads, Q, C)``.
    """
    groups, heads = values.shape[-3], key.shape[-3]

    def attend(rows: Tensor, own: Tensor | None) -> Tensor:
        weights = attention_weights(score(rows, key), mask, own).to(values.dtype)
        # One matrix product serves all heads that share values, so that values are neither copied nor summed by head.
        # In it the heads of a receiver are adjacent, so that they are concatenated without a copy.
        context = rearrange(weights, "... (g h) q b -> ... g (q h) b", g=groups) @ values
        return rearrange(context, "... g (q h) c -> ... (g h) q c", h=heads // groups)

    # Neither torch.compile nor torch.func supports the hooks of a checkpoint.
    without_hooks = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if block_rows is None or without_hooks or block_rows >= query.shape[-2]:
        return attend(query, own)
    rows = torch.split(query, block_rows, dim=-2)
    owns = [None] * len(rows) if own is None else torch.split(own, block_rows)
    blocks = [
        checkpoint(attend, *block, use_reentrant=False, preserve_rng_state=False)
        for block in zip(rows, owns, strict=True)
    ]
    return torch.cat(blocks, dim=-2)


def interpolate(
    first: Tensor,
    second: Tensor,
    lam: Tensor,
    *,
    first_mask: Tensor | None = None,
    second_mask: Tensor | None = None,
) -> Tensor:
    """Compute synthetic samples ``lam * first + (1 - lam) * second`` (Eq. 14); lambda weights the first of each pair.

    Args:
        first: Shape ``(M, ...)``.
        second: Same shape.
        lam: Shape ``(M,)``, in [0, 1].
        first_mask: Boolean, shape ``(M, L)`` for tensors ``(M, L, ...)``, True for a real token of the first. If only
            one of the two has a token, it is used unmixed; if neither has one, the padding of the first is used.
        second_mask: The same for the second; pass both or neither.

    Returns:
        Shape ``(M, ...)``, in the dtype of ``first``.

    Example:
        >>> interpolate(torch.tensor([[8.0]]), torch.tensor([[0.0]]), torch.tensor([0.75]))
        tensor([[6.]])
    """
    if first.shape != second.shape or lam.shape != first.shape[:1]:
        raise ValueError(
            f"first and second must have one shape (M, ...) and lam shape (M,), got {tuple(first.shape)}, "
            f"{tuple(second.shape)} and {tuple(lam.shape)}."
        )
    share = lam.to(first.dtype).reshape(-1, *[1] * (first.ndim - 1))
    mixed = torch.lerp(second, first, share)
    if first_mask is None or second_mask is None:
        return mixed
    shape = first_mask.shape + (1,) * (first.ndim - first_mask.ndim)
    first_real, second_real = first_mask.reshape(shape), second_mask.reshape(shape)
    return torch.where(first_real & second_real, mixed, torch.where(second_real, second, first))


def interpolate_targets(
    first: Tensor,
    second: Tensor,
    lam: Tensor,
    num_classes: int,
    *,
    first_mask: Tensor | None = None,
    second_mask: Tensor | None = None,
) -> Tensor:
    """Compute soft targets ``lam * y_first + (1 - lam) * y_second`` of synthetic samples (Eq. 15).

    Args:
        first: Class indices ``(M,)`` or tags ``(M, L)``, where ignored labels such as -100 become zeros; or
            floating-point targets ``(M, ..., num_classes)``.
        second: The same kind.
        lam: Shape ``(M,)``.
        num_classes: Number of classes.
        first_mask: Real tokens of ``first``, shape ``(M, L)``; see :func:`interpolate`.
        second_mask: Real tokens of ``second``.

    Returns:
        Shape ``(M, ..., num_classes)``.

    Example:
        >>> interpolate_targets(torch.tensor([0]), torch.tensor([2]), torch.tensor([0.75]), 3)
        tensor([[0.7500, 0.0000, 0.2500]])
    """
    if not first.is_floating_point():
        classes = torch.arange(num_classes, device=first.device)
        first, second = ((labels.unsqueeze(-1) == classes).to(lam.dtype) for labels in (first, second))
    if first.shape[-1] != num_classes:
        raise ValueError(f"Expected targets over num_classes={num_classes}, got shape {tuple(first.shape)}.")
    return interpolate(first, second, lam, first_mask=first_mask, second_mask=second_mask)


def mixed_loss(loss_first: Tensor, loss_second: Tensor, lam: Tensor) -> Tensor:
    """Compute the loss of synthetic rows ``lam * l(y_i) + (1 - lam) * l(y_j)`` (Eq. 15 for losses linear in the label).

    Args:
        loss_first: Loss of each row against the first target, shape ``(M,)``.
        loss_second: Loss of each row against the second target, shape ``(M,)``.
        lam: Shape ``(M,)``.

    Returns:
        Loss of each row, shape ``(M,)``.
    """
    return lam * loss_first + (1 - lam) * loss_second


def row_weights(
    valid: Tensor,
    sizes: tuple[int, int, int],
    strength: Tensor,
    *,
    transformed_ratio: float | None = None,
    original_share: Tensor | None = None,
    apart: bool = False,
) -> Tensor:
    """Compute the weight of each row of the final set in the loss.

    Args:
        valid: 1 for a row made of real samples and 0 for padding, shape ``(N,)``.
        sizes: Numbers of original, transformed and synthetic rows, in this order.
        strength: Weight of transformed and synthetic rows relative to the originals, a scalar.
        transformed_ratio: Delta, if used as a weight: transformed rows weigh Delta and synthetic rows 1 - Delta.
        original_share: Weight of original rows instead of 1, a scalar.
        apart: Add a mean over real rows and a mean over synthetic rows, instead of one mean over all rows.

    Returns:
        Shape ``(N,)``; the sum is 1, or up to 2 with ``apart``, or 0 without a real sample.
    """
    originals, transformed, synthetic = torch.split(valid, list(sizes))
    num_synthetic = synthetic.sum()
    if original_share is not None:
        originals = original_share * originals
    if transformed_ratio is not None:
        transformed, synthetic = transformed_ratio * transformed, (1 - transformed_ratio) * synthetic
    real, extra = torch.cat([originals, strength * transformed]), strength * synthetic
    # Without real samples all weights are 0.
    if apart:
        total = real.sum()  # can be below 1 if original_share is
        return torch.cat([real / total.masked_fill(total == 0, 1), extra / num_synthetic.clamp_min(1)])
    return torch.cat([real, extra]) / (real.sum() + extra.sum()).clamp_min(1)
