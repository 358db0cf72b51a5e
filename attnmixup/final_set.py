"""The final set of Eq. 16: what a plan makes of a batch and its transformed samples."""

import torch
from torch import Tensor

from attnmixup import functional
from attnmixup.batch import Batch
from attnmixup.mixed_batch import MixedBatch, Origin
from attnmixup.options import MixupOptions
from attnmixup.sampling import MixupPlan


def unmixed(batch: Batch) -> MixedBatch:
    """The batch as it is, for evaluation."""
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
        origin=torch.full_like(rows, Origin.ORIGINAL),
        index_a=rows,
        index_b=rows,
        num_originals=batch.size,
        num_synthetic=0,
    )


def final_set(
    batch: Batch,
    transformed: Tensor,
    plan: MixupPlan,
    options: MixupOptions,
    strength: Tensor,
    attention: Tensor | None = None,
) -> MixedBatch:
    """Originals, transformed samples and synthetic ones, as the plan says.

    Args:
        batch: H and its targets.
        transformed: H*, in the shape of H.
        plan: Which rows of H* to keep and which pairs to mix.
        options: How rows weigh in the loss.
        strength: What transformed and synthetic rows weigh beside the originals, a scalar.
        attention: Kept in the result.
    """
    size = batch.size
    rows = torch.arange(size, device=transformed.device)
    first, second = plan.first % size, plan.second % size
    pool = torch.cat([batch.embeddings, transformed])
    synthetic = functional.interpolate(
        pool[plan.first],
        pool[plan.second],
        plan.lam,
        first_mask=_take(batch.token_mask, first),
        second_mask=_take(batch.token_mask, second),
    )
    index_a = torch.cat([rows, plan.transformed, first])
    index_b = torch.cat([rows, plan.transformed, second])
    sizes = (size, len(plan.transformed), len(first))
    ratio = options.transformed_ratio if options.final == "weight" else None
    return MixedBatch(
        embeddings=torch.cat([batch.embeddings, transformed[plan.transformed], synthetic]),
        targets_a=_take(batch.targets, index_a),
        targets_b=_take(batch.targets, index_b),
        lam=torch.cat([plan.lam.new_ones(sizes[0] + sizes[1]), plan.lam]),
        mask=None if batch.token_mask is None else batch.token_mask[index_a] | batch.token_mask[index_b],
        mask_a=_take(batch.scored_mask, index_a),
        mask_b=_take(batch.scored_mask, index_b),
        weight=functional.row_weights(
            batch.valid[index_a], sizes, strength, transformed_ratio=ratio, apart=options.averaging == "apart"
        ),
        origin=torch.cat([rows.new_full((count,), origin) for origin, count in zip(Origin, sizes, strict=True)]),
        index_a=index_a,
        index_b=index_b,
        num_originals=size,
        num_synthetic=len(first),
        attention=attention,
    )


def _take(tensor: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if tensor is None else tensor[rows]
