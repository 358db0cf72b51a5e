"""The final set of Eq. 16: applies a plan to a batch and its transformed samples."""

import torch
from torch import Tensor

from attnmixup import functional
from attnmixup.batch import Batch
from attnmixup.distributed import Share
from attnmixup.mixed_batch import MixedBatch, Origin
from attnmixup.options import MixupOptions
from attnmixup.sampling import MixupPlan


def unmixed(batch: Batch) -> MixedBatch:
    """Return the batch unchanged, for evaluation and strength 0."""
    rows = torch.arange(batch.size, device=batch.embeddings.device)
    return MixedBatch(
        embeddings=batch.embeddings,
        targets_a=batch.targets,
        targets_b=batch.targets,
        lam=torch.ones_like(batch.valid),
        mask=batch.token_mask,
        mask_a=batch.scored_mask,
        mask_b=batch.scored_mask,
        weight=batch.valid / batch.valid.sum().clamp_min(1),
        valid=batch.valid > 0,
        origin=torch.full_like(rows, Origin.ORIGINAL),
        index_a=rows,
        index_b=rows,
        num_originals=batch.size,
        num_synthetic=0,
        token_mask=batch.token_mask,
    )


def used_rows(plan: MixupPlan) -> Tensor:
    """Return the rows of H* that a plan uses, shape ``(R,)``, ascending, without duplicates.

    All rows are returned on accelerators, where counting would make the host wait for the device, and under
    ``torch.compile``, where it would fix their number in the compiled graph.
    """
    size, device = plan.size, plan.first.device
    rows = torch.arange(size, device=device)
    if plan.transformed.shape[0] == plan.first.shape[0] == 0:
        return rows[:0]
    if device.type != "cpu" or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return rows
    pairs = torch.cat([plan.first, plan.second])
    used = torch.zeros(size, dtype=torch.bool)
    used[plan.transformed] = True
    used[pairs[pairs >= size] - size] = True
    return rows[used]


def final_set(
    batch: Batch,
    transformed: Tensor,
    rows: Tensor,
    plan: MixupPlan,
    options: MixupOptions,
    strength: Tensor,
    *,
    token_mask: Tensor | None = None,
    share: Share | None = None,
    attention: Tensor | None = None,
) -> MixedBatch:
    """Build the original, transformed and synthetic rows that the plan describes.

    Args:
        batch: H and its targets, B samples.
        transformed: Rows of H*, shape ``(R, ...)``.
        rows: Row numbers of ``transformed`` in H*, shape ``(R,)``.
        plan: Which rows of H* to keep and which pairs to mix.
        options: Options that set the weights of the rows.
        strength: Weight of transformed and synthetic rows relative to the originals, a scalar.
        token_mask: Mask of the tokens of this process, shape ``(B, L)``, for other targets of the same tokens.
        share: The part of the final set that this process trains on; None for all of it.
        attention: Attention weights to store in the result.

    Returns:
        Rows in the order original, transformed, synthetic; with ``share``, only its rows.
    """
    size, device = batch.size, batch.embeddings.device
    everything = torch.arange(size, device=device)
    index_a = torch.cat([everything, plan.transformed, plan.first % size])
    index_b = torch.cat([everything, plan.transformed, plan.second % size])
    sizes = (size, plan.transformed.shape[0], plan.first.shape[0])
    valid = batch.valid[index_a]
    weight = functional.row_weights(
        valid,
        sizes,
        strength,
        transformed_ratio=options.transformed_ratio if options.final == "weight" else None,
        original_share=1 - strength if options.final == "mixed" else None,
        apart=options.averaging == "apart",
    )
    lam = torch.cat([plan.lam.new_ones(sizes[0] + sizes[1]), plan.lam])
    origin = torch.cat([everything.new_full((count,), origin) for origin, count in zip(Origin, sizes, strict=True)])
    own_plan, start, end = plan, 0, size
    if share is not None:
        own = share.rows(size, device)
        index_a, index_b, weight, valid, lam, origin = (
            tensor[own] for tensor in (index_a, index_b, weight, valid, lam, origin)
        )
        weight, own_plan, start, end = weight * share.world_size, share.plan, share.start, share.end

    # The pool holds the rows of H, then the computed rows of H*. ``found`` maps rows of the plan to rows of the pool.
    place = torch.zeros_like(everything).scatter(0, rows, torch.arange(rows.shape[0], device=device))
    pool = torch.cat([batch.embeddings, transformed])
    wanted = (size + own_plan.transformed, own_plan.first, own_plan.second)
    found = torch.cat([torch.where(row < size, row, size + place[row % size]) for row in wanted])
    # One indexing operation, so that the backward pass fills the gradient of the pool once.
    kept, first, second = pool[found].split([row.shape[0] for row in wanted])
    synthetic = functional.interpolate(
        first,
        second,
        own_plan.lam,
        first_mask=_take(batch.token_mask, own_plan.first % size),
        second_mask=_take(batch.token_mask, own_plan.second % size),
    )
    return MixedBatch(
        embeddings=torch.cat([batch.embeddings[start:end], kept, synthetic]),
        targets_a=_take(batch.targets, index_a),
        targets_b=_take(batch.targets, index_b),
        lam=lam,
        mask=None if batch.token_mask is None else batch.token_mask[index_a] | batch.token_mask[index_b],
        mask_a=_take(batch.scored_mask, index_a),
        mask_b=_take(batch.scored_mask, index_b),
        weight=weight,
        valid=valid > 0,
        origin=origin,
        index_a=index_a,
        index_b=index_b,
        num_originals=end - start,
        num_synthetic=own_plan.first.shape[0],
        token_mask=token_mask,
        apart=options.averaging == "apart",
        attention=attention,
        ranks=None if share is None else share.ranks,
    )


def _take(tensor: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if tensor is None else tensor[rows]
