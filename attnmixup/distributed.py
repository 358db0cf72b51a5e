"""The global batch: rows of all ranks gathered with gradient, and each rank's share of the result."""

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from attnmixup.batch import Batch
from attnmixup.mixed_batch import MixedBatch
from attnmixup.sampling import MixupPlan

BY_ROW = (
    "embeddings",
    "targets_a",
    "targets_b",
    "lam",
    "mask",
    "mask_a",
    "mask_b",
    "weight",
    "origin",
    "index_a",
    "index_b",
)


def is_distributed() -> bool:
    """Whether a process group is initialised; without one the global batch is the local one."""
    return dist.is_available() and dist.is_initialized()


def gather_rows(*tensors: Tensor) -> tuple[list[Tensor], list[int]]:
    """Concatenate the rows of all ranks, in the order of the ranks; gradients return to the rank that gave a row.

    Ranks may differ in the number of rows and in lengths: shorter rows are padded with 0 at their end. Every rank must
    make this call, with the same kinds of tensors.

    Args:
        tensors: Of shape ``(B, ...)``, all with one B.

    Returns:
        The gathered tensors, and the number of rows of every rank.
    """
    shape = torch.tensor([side for tensor in tensors for side in tensor.shape], device=tensors[0].device)
    shapes = _all_gather(shape)
    # The one place where the host waits for the device: without the sizes there is nothing to allocate.
    sizes: list[int] = shapes[:, 0].tolist()
    largest = iter(shapes.amax(0).tolist())
    gathered = []
    for tensor in tensors:
        missing = [next(largest) - side for side in tensor.shape]
        padded = pad(tensor, [amount for side in reversed(missing) for amount in (0, side)])
        blocks = _AllGather.apply(padded)
        gathered.append(torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)]))
    return gathered, sizes


def gather_batch(batch: Batch) -> tuple[Batch, list[int]]:
    """The global batch, and the number of samples of every rank.

    Raises:
        ValueError: If sequences have no mask: ranks may differ in length, and padding must be told from tokens.
    """
    if batch.embeddings.ndim == 3 and batch.mask is None:
        raise ValueError("global_batch needs a mask for sequences (B, L, C), because ranks may differ in length.")
    given = {name: tensor for name, tensor in vars(batch).items() if tensor is not None}
    gathered, sizes = gather_rows(*given.values())
    return replace(batch, **dict(zip(given, gathered, strict=True))), sizes


def broadcast_plan(plan: MixupPlan) -> MixupPlan:
    """The plan that rank 0 drew, on every rank."""
    shared = [
        tensor.clone(memory_format=torch.contiguous_format)
        for tensor in (plan.transformed, plan.first, plan.second, plan.lam)
    ]
    for tensor in shared:
        dist.broadcast(tensor, src=0)
    return MixupPlan(*shared)


def own_share(mixed: MixedBatch, sizes: list[int]) -> MixedBatch:
    """The rows of the global final set that this rank trains on: its originals, and a proportional part of the others.

    Weights are multiplied by the number of ranks, so that the mean over the ranks, which DistributedDataParallel takes
    of the gradients, is the loss of the global set.
    """
    rank, total, others = dist.get_rank(), sum(sizes), len(mixed.lam) - sum(sizes)
    start, end = sum(sizes[:rank]), sum(sizes[: rank + 1])
    first, last = start * others // total, end * others // total
    device = mixed.lam.device
    rows = torch.cat(
        [torch.arange(start, end, device=device), torch.arange(total + first, total + last, device=device)]
    )
    fields = {name: getattr(mixed, name) for name in BY_ROW}
    own: dict[str, Any] = {name: None if field is None else field[rows] for name, field in fields.items()}
    own["weight"] = own["weight"] * len(sizes)
    first_synthetic = others - mixed.num_synthetic
    return replace(mixed, **own, num_originals=end - start, num_synthetic=max(0, last - max(first, first_synthetic)))


class _AllGather(torch.autograd.Function):
    """Stack one tensor of each rank; the gradient of a rank's tensor is the sum over what all ranks made of it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _all_gather(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[dist.get_rank()]


def _all_gather(tensor: Tensor) -> Tensor:
    blocks = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(blocks, tensor.contiguous())
    return torch.stack(blocks)
