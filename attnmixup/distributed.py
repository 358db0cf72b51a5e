"""The global batch: gather the rows of all ranks with gradient, and assign each rank its share of the result."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from attnmixup.batch import Batch
from attnmixup.sampling import MixupPlan

TENSORS = ("embeddings", "targets", "mask", "target_mask", "group")
DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str)
MAX_DIMS = 12
ABSENT = -1

MISSING_RANK_MESSAGE = (
    "Not every rank reached the mixer: with global_batch=True all ranks must call it the same number of times. Look "
    "for a rank that has fewer batches than the others (use drop_last=True or an even sampler), made an extra step, "
    "evaluated under torch.no_grad() while the others trained, or stopped with its own error."
)


def is_distributed() -> bool:
    """Return whether a process group is initialised; without one the global batch is the local batch."""
    return dist.is_available() and dist.is_initialized()


@dataclass(frozen=True, eq=False)
class GroupReference:
    """The ranks that share a global batch, stored in a module or a result but not part of its state.

    A deep copy refers to the same ranks. A process group cannot be pickled; None, which means all ranks, can.

    Attributes:
        group: The process group; None for all ranks.
    """

    group: dist.ProcessGroup | None = None

    def mean(self, sums: Tensor) -> Tensor:
        """Return the mean over the ranks, of the same shape, without gradient; every rank must make this call."""
        return sum_over_ranks(sums, self.group) / dist.get_world_size(self.group)

    def gather(self, *tensors: Tensor) -> list[Tensor]:
        """Return the rows of all ranks, as :func:`gather_rows`; every rank must make this call."""
        gathered, _ = gather_rows(*tensors, group=self.group)
        return gathered

    def __copy__(self) -> "GroupReference":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "GroupReference":
        return self

    def __reduce__(self) -> tuple[type["GroupReference"], tuple[()]]:
        if self.group is not None:
            raise TypeError(
                "A mixer with a process_group cannot be pickled: save model.state_dict() instead, and load it into a "
                "new model with its own process_group."
            )
        return GroupReference, ()


@dataclass(frozen=True)
class TensorHeader:
    """Metadata of one tensor that the other ranks need.

    Attributes:
        dtype: Its dtype.
        shape: Its shape.
        gradient: Whether a gradient must flow back to it.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    gradient: bool

    @classmethod
    def of(cls, tensor: Tensor) -> "TensorHeader":
        """Return the header of a tensor."""
        if not 1 <= tensor.ndim <= MAX_DIMS:
            raise ValueError(f"Ranks can gather tensors of 1 to {MAX_DIMS} dimensions, got {tuple(tensor.shape)}.")
        return cls(tensor.dtype, tuple(map(int, tensor.shape)), tensor.requires_grad and torch.is_grad_enabled())

    def encode(self) -> list[int]:
        """Return a fixed number of integers."""
        sides = [*self.shape, *[0] * (MAX_DIMS - len(self.shape))]
        return [DTYPES.index(self.dtype), int(self.gradient), len(self.shape), *sides]

    @classmethod
    def decode(cls, codes: Iterator[int]) -> "TensorHeader | None":
        """Read the integers of :meth:`encode` from the front of ``codes``; None if there was no tensor."""
        dtype, gradient, ndim = next(codes), bool(next(codes)), next(codes)
        sides = [next(codes) for _ in range(MAX_DIMS)]
        return None if dtype == ABSENT else cls(DTYPES[dtype], tuple(sides[:ndim]), gradient)


NO_TENSOR = [ABSENT] * (3 + MAX_DIMS)


@dataclass(frozen=True)
class PlanHeader:
    """Metadata of a plan that the other ranks need.

    Attributes:
        size: Number of samples that the plan is for.
        lengths: Number of elements of ``transformed``, ``first``, ``second`` and ``lam``.
        dtype: Dtype of ``lam``.
    """

    size: int
    lengths: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, plan: MixupPlan) -> "PlanHeader":
        """Return the header of a plan."""
        return cls(int(plan.size), tuple(int(tensor.numel()) for tensor in _parts(plan)), plan.lam.dtype)

    def encode(self) -> list[int]:
        """Return a fixed number of integers."""
        return [DTYPES.index(self.dtype), self.size, *self.lengths]

    @classmethod
    def decode(cls, codes: Iterator[int]) -> "PlanHeader | None":
        """Read the integers of :meth:`encode` from the front of ``codes``; None if there was no plan."""
        dtype, size, *lengths = (next(codes) for _ in NO_PLAN)
        return None if dtype == ABSENT else cls(size, tuple(lengths), DTYPES[dtype])


NO_PLAN = [ABSENT] * 6


@dataclass(frozen=True)
class Header:
    """Metadata that every rank sends to the others before the rows.

    Attributes:
        training: Whether the rank is in training mode.
        gradient: Whether autograd is enabled.
        strength: Weight of transformed and synthetic rows.
        tensors: Headers of the tensors of the batch by name; None for a tensor that was not given.
        plan: Header of the plan that was passed, if any.
    """

    training: bool
    gradient: bool
    strength: float
    tensors: dict[str, TensorHeader | None]
    plan: PlanHeader | None

    @classmethod
    def of(cls, batch: Batch, *, training: bool, plan: MixupPlan | None, strength: float) -> "Header":
        """Return the header of the batch that a rank is about to mix."""
        given = {name: getattr(batch, name) for name in TENSORS}
        tensors = {name: None if tensor is None else TensorHeader.of(tensor) for name, tensor in given.items()}
        return cls(
            training=training,
            gradient=torch.is_grad_enabled(),
            strength=strength,
            tensors=tensors,
            plan=None if plan is None else PlanHeader.of(plan),
        )

    @property
    def size(self) -> int:
        """Number of samples of the rank."""
        embeddings = self.tensors["embeddings"]
        return 0 if embeddings is None else embeddings.shape[0]

    @property
    def targets_by_token(self) -> bool:
        """Whether the second axis of the targets is the token axis, whose length may differ between ranks."""
        targets, mask = self.tensors["targets"], self.tensors["mask"]
        same_tokens = targets is not None and mask is not None and targets.shape[:2] == mask.shape
        return self.tensors["target_mask"] is not None or (same_tokens and mask is not None and len(mask.shape) == 2)

    def encode(self) -> list[int]:
        """Return integers, the same number on every rank."""
        (strength,) = struct.unpack("<q", struct.pack("<d", self.strength))
        codes = [int(self.training), int(self.gradient), strength]
        codes += NO_PLAN if self.plan is None else self.plan.encode()
        for name in TENSORS:
            tensor = self.tensors[name]
            codes += NO_TENSOR if tensor is None else tensor.encode()
        return codes

    @classmethod
    def decode(cls, codes: Sequence[int]) -> "Header":
        """Return the header from the integers of :meth:`encode`."""
        training, gradient, bits, *others = codes
        (strength,) = struct.unpack("<d", struct.pack("<q", bits))
        rest = iter(others)
        plan = PlanHeader.decode(rest)
        return cls(
            bool(training), bool(gradient), strength, {name: TensorHeader.decode(rest) for name in TENSORS}, plan
        )


def exchange(
    batch: Batch, *, training: bool, plan: MixupPlan | None, strength: float, group: dist.ProcessGroup | None
) -> list[Header]:
    """Exchange headers with all ranks before mixing. Only here the host waits.

    Args:
        batch: The samples of this rank.
        training: Whether the rank is in training mode.
        plan: The plan that was passed, if any.
        strength: Weight of transformed and synthetic rows.
        group: The ranks of the global batch; None for all.

    Returns:
        One header per rank, the same list on all ranks.

    Raises:
        ValueError: If the inputs of the ranks do not match; the same error on every rank.
        RuntimeError: If a rank does not take part.
    """
    if dist.get_rank(group) < 0:
        raise ValueError("This rank is not in the process_group of the mixer: only ranks of the group can call it.")
    own = Header.of(batch, training=training, plan=plan, strength=strength)
    headers = [Header.decode(codes) for codes in _all_gather_codes(own.encode(), batch.embeddings.device, group)]
    check_agreement(headers)
    return headers


def check_agreement(headers: list[Header]) -> None:
    """Raise the same ValueError on every rank if the inputs of the ranks do not form one global batch.

    In evaluation only the mode must match, because nothing is gathered.
    """
    _check_same(
        [f"{'training' if header.training else 'evaluation'} mode" for header in headers],
        "Call model.train() on all of them, or model.eval().",
    )
    if not headers[0].training:
        return
    _check_same(
        ["gradients" if header.gradient else "torch.no_grad()" for header in headers],
        "Run all of them with gradients, or all without.",
    )
    _check_same(
        [f"strength {header.strength:.9g}" for header in headers], "Call set_strength() with one value on all of them."
    )
    _check_same(
        ["no plan" if header.plan is None else "a plan" for header in headers],
        "Pass plan= on all of them (the plan of the first rank is used), or on none.",
    )
    by_token = all(header.targets_by_token for header in headers)
    for name in TENSORS:
        free = 1 if name == "targets" and not by_token else 2
        _check_same(
            [_describe(name, header.tensors[name], free) for header in headers],
            "Only the numbers of samples and tokens may differ.",
        )
    embeddings = headers[0].tensors["embeddings"]
    if embeddings is not None and len(embeddings.shape) == 3 and headers[0].tensors["mask"] is None:
        raise ValueError("global_batch needs a mask for sequences (B, L, C), because ranks may differ in length.")
    if sum(header.size for header in headers) == 0:
        raise ValueError("The global batch has no samples: the batch of every rank is empty.")


def gather_batch(batch: Batch, headers: list[Header], group: dist.ProcessGroup | None) -> Batch:
    """Gather the global batch, in the order of the ranks; gradients flow back to the rank that owns a row.

    Ranks may differ in the numbers of samples and tokens. A rank may have 0 samples. Shorter rows are padded with 0.

    Args:
        batch: The samples of this rank.
        headers: Result of :func:`exchange`.
        group: The ranks of the global batch; None for all.

    Returns:
        The samples of all ranks; sequences have the length of the longest on any rank.
    """
    gathered: dict[str, Tensor] = {}
    for name in TENSORS:
        blocks = [tensor for header in headers if (tensor := header.tensors[name]) is not None]
        if blocks:
            gathered[name] = _gather(getattr(batch, name), blocks, group)
    return replace(batch, **gathered)


def gather_rows(*tensors: Tensor, group: dist.ProcessGroup | None = None) -> tuple[list[Tensor], list[int]]:
    """Concatenate the rows of all ranks, in the order of the ranks; gradients flow back to the rank that owns a row.

    Ranks may differ in the number of rows, which may be 0, and in lengths: shorter rows are padded with 0 at their end.
    Every rank must make this call, with the same number of tensors, of the same dtypes and numbers of dimensions.

    Args:
        tensors: Tensors of shape ``(B, ...)``, all with the same B.
        group: The ranks that take part; None for all.

    Returns:
        The gathered tensors, and the number of rows on every rank.

    Raises:
        ValueError: If dtypes or numbers of dimensions differ between ranks; the same error on every rank.
        RuntimeError: If a rank does not take part.
    """
    own = [code for tensor in tensors for code in TensorHeader.of(tensor).encode()]
    by_rank = [iter(codes) for codes in _all_gather_codes(own, tensors[0].device, group)]
    gathered = []
    sizes: list[int] = []
    for place, tensor in enumerate(tensors):
        blocks = [block for codes in by_rank if (block := TensorHeader.decode(codes)) is not None]
        _check_same(
            [_describe(f"tensor {place}", block, MAX_DIMS) for block in blocks],
            "Pass the same dtypes and numbers of dimensions on all of them.",
        )
        gathered.append(_gather(tensor, blocks, group))
        sizes = [block.shape[0] for block in blocks]
    return gathered, sizes


def broadcast_plan(
    plan: MixupPlan, headers: list[Header], device: torch.device, group: dist.ProcessGroup | None
) -> MixupPlan:
    """Send the plan of the first rank to every rank.

    Args:
        plan: The plan that was passed to this rank, or the plan that it drew, which has the same length on all ranks.
        headers: Result of :func:`exchange`.
        device: Device of the returned plan.
        group: The ranks of the global batch; None for all.

    Returns:
        A plan on ``device``, with row numbers of the global batch.
    """
    header = headers[0].plan or PlanHeader.of(plan)
    if dist.get_rank(group) == 0:
        # One message for all four tensors: float64 represents row numbers exactly.
        packed = torch.cat([part.detach().flatten().to(device, torch.float64) for part in _parts(plan)])
    else:
        packed = torch.empty(sum(header.lengths), dtype=torch.float64, device=device)
    if packed.numel():
        dist.broadcast(packed, src=0 if group is None else dist.get_global_rank(group, 0), group=group)
    transformed, first, second, lam = torch.split(packed, list(header.lengths))
    return MixupPlan(transformed.long(), first.long(), second.long(), lam.to(header.dtype), header.size)


@dataclass(frozen=True, eq=False)
class Share:
    """The part of the final set that one rank trains on: its originals and a proportional part of the other rows.

    Attributes:
        start: Index of its first original among the originals of all ranks.
        end: One past its last original.
        first: Index of its first other row, among the transformed and then the synthetic rows of all ranks.
        last: One past its last other row.
        plan: The part of the plan for its other rows, with row numbers of the global batch.
        world_size: Number of ranks. Weights are multiplied by it. Averaged over the ranks, as DistributedDataParallel
            averages gradients, they then give the loss of the global set.
        ranks: The ranks that share the global batch.
    """

    start: int
    end: int
    first: int
    last: int
    plan: MixupPlan
    world_size: int
    ranks: GroupReference

    def rows(self, size: int, device: torch.device) -> Tensor:
        """Return its row numbers in the final set of all ranks, which begins with ``size`` originals."""
        own = torch.arange(self.start, self.end, device=device)
        return torch.cat([own, torch.arange(size + self.first, size + self.last, device=device)])


def share_of(plan: MixupPlan, sizes: list[int], ranks: GroupReference, *, rank: int | None = None) -> Share:
    """Compute the share of a rank: other rows are split in proportion to samples, in the order of the ranks.

    Args:
        plan: The plan for the samples of all ranks.
        sizes: Number of samples of every rank.
        ranks: The ranks that share the global batch.
        rank: The rank of the share; None for this process.

    Returns:
        The originals of the rank, its other rows, and the part of the plan for them.
    """
    rank = dist.get_rank(ranks.group) if rank is None else rank
    start, end, total = sum(sizes[:rank]), sum(sizes[: rank + 1]), sum(sizes)
    kept = plan.transformed.shape[0]
    others = kept + plan.first.shape[0]
    first, last = start * others // total, end * others // total
    pairs = slice(max(0, first - kept), max(0, last - kept))
    own = MixupPlan(plan.transformed[first:last], plan.first[pairs], plan.second[pairs], plan.lam[pairs], plan.size)
    return Share(start, end, first, last, own, len(sizes), ranks)


def sum_over_ranks(tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Sum a tensor over the ranks, without gradient; every rank must make this call, with one shape and dtype."""
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


def _parts(plan: MixupPlan) -> tuple[Tensor, ...]:
    return plan.transformed, plan.first, plan.second, plan.lam


def _all_gather_codes(codes: list[int], device: torch.device, group: dist.ProcessGroup | None) -> list[list[int]]:
    """Gather the integers of all ranks, the same number from each."""
    try:
        gathered: list[list[int]] = _all_gather(torch.tensor(codes, device=device), group).tolist()
    except RuntimeError as error:
        raise RuntimeError(f"{MISSING_RANK_MESSAGE} The exchange between the ranks failed with: {error}") from error
    return gathered


def _check_same(by_rank: list[str], advice: str) -> None:
    """Raise ValueError unless every rank has the same value; the message names the value of each rank."""
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(by_rank):
        ranks.setdefault(value, []).append(rank)
    if len(ranks) == 1:
        return
    # The most common value comes last, as "the others".
    ordered = sorted(ranks.items(), key=lambda item: (len(item[1]), -item[1][0]))
    *few, (common, most) = [(value, which) for value, which in ordered]
    parts = [f"{value} on {_names(which)}" for value, which in few]
    parts.append(f"{common} on {'the others' if len(most) > 1 else _names(most)}")
    raise ValueError(f"Ranks disagree: {', '.join(parts)}. {advice}")


def _names(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def _describe(name: str, tensor: TensorHeader | None, free: int) -> str:
    """Describe what must match on all ranks; of the first ``free`` axes only their existence must match."""
    if tensor is None:
        return f"no {name}"
    letters = ["B", "L"] if free == 2 and len(tensor.shape) > 1 + (name == "embeddings") else ["B"]
    if free > 2:
        letters = ["..." if place else "B" for place in range(len(tensor.shape))]
    sides = ", ".join([*letters, *map(str, tensor.shape[len(letters) :])])
    return f"{name} of {tensor.dtype} and shape ({sides}{',' if len(tensor.shape) == 1 else ''})"


def _gather(tensor: Tensor, blocks: list[TensorHeader], group: dist.ProcessGroup | None) -> Tensor:
    """Gather the rows of all ranks; ``blocks`` describes the tensor of each rank."""
    largest = [max(sides) for sides in zip(*(block.shape for block in blocks), strict=True)]
    missing = [most - side for most, side in zip(largest, tensor.shape, strict=True)]
    padded = pad(tensor, [amount for side in reversed(missing) for amount in (0, side)]) if any(missing) else tensor
    if any(block.gradient for block in blocks) and torch.is_grad_enabled() and not padded.requires_grad:
        # The backward pass communicates too: a rank that needs no gradient must still take part.
        padded = padded.detach().requires_grad_()
    stacked = _AllGather.apply(padded, group)
    return torch.cat([rows[: block.shape[0]] for rows, block in zip(stacked, blocks, strict=True)])


class _AllGather(torch.autograd.Function):
    """Stack one tensor per rank; the gradient of a rank's tensor is summed over the outputs of all ranks."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return _all_gather(tensor, group)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if gradient.numel():
            gradient = sum_over_ranks(gradient, ctx.group)
        return gradient[dist.get_rank(ctx.group)], None


def _all_gather(tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Stack one tensor per rank, all of the same shape; any dtype works, because bytes are sent."""
    shape = (dist.get_world_size(group), *tensor.shape)
    if tensor.numel() == 0:
        return tensor.new_empty(shape)
    own = tensor.contiguous().view(torch.uint8)
    blocks = [torch.empty_like(own) for _ in range(shape[0])]
    dist.all_gather(blocks, own, group=group)
    return torch.stack(blocks).view(tensor.dtype)
