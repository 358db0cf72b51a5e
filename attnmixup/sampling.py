"""Random draws of AttnMixup: lambda, partners and subsets, drawn on the device and applied in other modules."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from attnmixup import functional
from attnmixup.checks import check_values
from attnmixup.criteria import IGNORED
from attnmixup.options import MixupOptions


@dataclass(frozen=True, eq=False)
class MixupPlan:
    """All random choices of one mixup step.

    ``first`` and ``second`` count rows of H (0 to B - 1) followed by rows of H* (B to 2B - 1).

    Attributes:
        transformed: Rows of H* that enter the final set, shape ``(T,)``.
        first: First row of each pair, shape ``(M,)``.
        second: Second row of each pair, shape ``(M,)``.
        lam: Weight of the first row, shape ``(M,)``.
        size: Number of samples B that the plan is for.
    """

    transformed: Tensor
    first: Tensor
    second: Tensor
    lam: Tensor
    size: int

    def check(self, group: Tensor) -> None:
        """Raise ValueError unless the plan fits the samples and its parts are consistent.

        Args:
            group: Integer, shape ``(B,)``; the two rows of a pair must come from samples of one number.
        """
        size = group.shape[0]
        if self.size != size:
            raise ValueError(
                f"The plan is for {self.size} samples, but the batch has {size}: draw a new plan with draw({size})."
            )
        if (
            self.transformed.ndim != 1
            or self.first.ndim != 1
            or not self.first.shape == self.second.shape == self.lam.shape
        ):
            raise ValueError(
                "A plan needs transformed (T,) and first, second and lam (M,), got "
                f"{tuple(self.transformed.shape)}, {tuple(self.first.shape)}, {tuple(self.second.shape)} and "
                f"{tuple(self.lam.shape)}."
            )
        for name, rows, limit in (
            ("transformed", self.transformed, size),
            ("first", self.first, 2 * size),
            ("second", self.second, 2 * size),
        ):
            check_values((rows >= 0) & (rows < limit), f"The plan's {name} must be rows from 0 to {limit - 1}.")
        check_values((self.lam >= 0) & (self.lam <= 1), "The plan's lam must be between 0 and 1.")
        check_values(
            group[self.first % size] == group[self.second % size],
            "The plan pairs real samples with padding, or samples of different groups: pass mask and group to draw().",
        )


def draw_plan(
    options: MixupOptions,
    size: int,
    *,
    targets: Tensor | None = None,
    embeddings: Tensor | None = None,
    group: Tensor | None = None,
    generator: Generator | None = None,
    device: torch.device | None = None,
) -> MixupPlan:
    """Draw the random part of mixing ``size`` samples; :meth:`attnmixup.AttnMixup.draw` documents the arguments."""
    if device is None:
        given = next((tensor for tensor in (targets, group, embeddings) if tensor is not None), None)
        device = None if given is None else given.device
    for name, tensor in (("targets", targets), ("embeddings", embeddings), ("group", group)):
        if tensor is not None and tensor.shape[:1] != (size,):
            raise ValueError(f"{name} must have one row for each of {size} samples, got {tuple(tensor.shape)}.")
    rows = torch.arange(size, device=device)
    group = torch.zeros_like(rows) if group is None else group
    num_original = options.num_original(size)
    if options.sampling == "slice":
        pairing_set = torch.cat([rows[:num_original], rows[size - options.num_transformed_in_slice(size) :] + size])
    else:
        transformed_in_set = draw_rows(size, size, generator=generator, device=device) >= num_original
        balanced = options.sampling == "balanced" and (targets is None or not _without_class(targets))
        rows_of_set = draw_balanced(group, class_of(targets), generator=generator) if balanced else rows
        pairing_set = rows_of_set + size * transformed_in_set

    if options.final == "mixed" and pairing_set.shape[0] == 0 < size:
        raise ValueError(
            f'sampling="slice" with sample_ratio={options.sample_ratio} makes no pairs from {size} samples, so '
            'final="mixed" has no rows to train on: raise sample_ratio.'
        )
    sources = pairing_set % size
    group = group[sources]
    if options.partner == "uniform":
        partner = draw_permutation(group, generator=generator)
    elif options.partner == "derangement":
        partner = draw_derangement(group, sources, generator=generator)
    elif options.partner == "nearest":
        if embeddings is None:
            raise ValueError('partner="nearest" needs embeddings.')
        partner = draw_nearest(group, sources, embeddings[sources], options.neighbours, generator=generator)
    else:
        draw_partner = draw_other_class if options.partner == "other_class" else draw_balanced
        partner = draw_partner(group, class_of(targets)[sources], generator=generator)

    num_transformed = options.num_transformed(size)
    if options.final == "sample":
        if options.sampling == "slice" and pairing_set.shape[0] < size - num_transformed:
            raise ValueError(
                f'sampling="slice" with sample_ratio={options.sample_ratio} makes {pairing_set.shape[0]} pairs from '
                f'{size} samples, but final="sample" needs {size - num_transformed}: raise sample_ratio or '
                "transformed_ratio."
            )
        transformed = draw_rows(size, num_transformed, generator=generator, device=device)
        chosen = draw_rows(pairing_set.shape[0], size - num_transformed, generator=generator, device=device)
    elif options.final == "slice":
        transformed = rows[:num_transformed]
        chosen = torch.arange(options.num_mixed(pairing_set.shape[0]), device=device)
    else:
        transformed = rows if options.final == "weight" else rows[:0]
        chosen = torch.arange(pairing_set.shape[0], device=device)
    num_lam = chosen.shape[0] if options.lam == "sample" else 1
    lam = draw_lam(options.alpha, num_lam, generator=generator, device=device).expand(chosen.shape[0])
    return MixupPlan(transformed, pairing_set[chosen], pairing_set[partner[chosen]], lam, size)


def _from(generator: Generator | None) -> dict[str, Any]:
    # Passing generator=None by keyword causes a graph break in torch.compile.
    return {} if generator is None else {"generator": generator}


def draw_lam(
    alpha: float, count: int, *, generator: Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """Draw lambda from Beta(alpha, alpha), shape ``(count,)``.

    Computes x / (x + y) of two Gamma(alpha) variates in log space, each as Gamma(alpha + 1) times U^(1 / alpha). This
    is exact and does not underflow for a small alpha.
    """
    shape = torch.full((2, count), alpha + 1.0, dtype=torch.float32, device=device)
    gamma = torch._standard_gamma(shape, **_from(generator))
    uniform = 1 - torch.rand(2, count, dtype=torch.float32, device=device, **_from(generator))
    log_gamma = gamma.log() + uniform.log() / alpha
    return torch.sigmoid(log_gamma[0] - log_gamma[1])


def draw_rows(
    size: int, count: int, *, generator: Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """Draw ``count`` of ``size`` rows without replacement, shape ``(count,)``."""
    return torch.randperm(size, device=device, **_from(generator))[:count]


def draw_permutation(group: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Draw a random permutation that maps every row to a row of its own group.

    Args:
        group: Integer, shape ``(S,)``.

    Returns:
        Row indices, shape ``(S,)``.
    """
    places = _shuffled_by_group(group, generator)
    return torch.empty_like(places).scatter(0, places, _shuffled_by_group(group, generator))


def _shuffled_by_group(group: Tensor, generator: Generator | None) -> Tensor:
    shuffled = torch.randperm(group.shape[0], device=group.device, **_from(generator))
    return shuffled[group[shuffled].argsort(stable=True)]


def draw_derangement(group: Tensor, samples: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Draw a random permutation that maps every row to a row of its group that comes from another sample.

    Each group is brought into a random cyclic order in which the rows of a sample are adjacent. Every row maps to the
    row that many places further that the most frequent sample has rows. Rows of a sample that has more than half of the
    rows of its group can map to the same sample.

    Args:
        group: Integer, shape ``(S,)``.
        samples: Sample that each row comes from, shape ``(S,)``; a sample has one group.

    Returns:
        Row indices, shape ``(S,)``.
    """
    shuffled = _shuffled_by_group(group, generator)
    first_of_sample = (samples[shuffled][:, None] == samples[shuffled]).to(torch.uint8).argmax(1)
    first_of_sample, order = first_of_sample.sort(stable=True)
    places = shuffled[order]
    start, end = _bounds(group[places])
    first, last = _bounds(first_of_sample)
    step = torch.zeros_like(places).scatter_reduce(0, start, last - first, "amax")[start]
    positions = torch.arange(group.shape[0], device=group.device)
    following = start + (positions - start + step) % (end - start)
    return torch.empty_like(places).scatter(0, places, places[following])


def _bounds(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """For each number of a sorted tensor, return the start and end of the run of equal numbers."""
    return torch.searchsorted(ordered, ordered), torch.searchsorted(ordered, ordered, right=True)


def draw_other_class(group: Tensor, classes: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Draw for every row a partner of its group and another class; any row of the group if there is no other class.

    Args:
        group: Integer, shape ``(S,)``.
        classes: Class of each row, shape ``(S,)``; a row with the ignored label -100 has none and is no partner.

    Returns:
        Row indices, shape ``(S,)``.
    """
    together = group[:, None] == group
    other = together & (classes[:, None] != classes) & (classes != IGNORED)
    return _weighted_choice(torch.where(other.any(1, keepdim=True), other, together).float(), generator)


def draw_balanced(group: Tensor, classes: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Draw for every row a partner whose class is uniform over the classes of its group.

    Args:
        group: Integer, shape ``(S,)``.
        classes: Class of each row, shape ``(S,)``; a row with the ignored label -100 has none and is drawn only in a
            group without classes.

    Returns:
        Row indices, shape ``(S,)``.
    """
    together = group[:, None] == group
    peers = (together & (classes[:, None] == classes)).sum(1)
    with_class = together & (classes != IGNORED)
    return _weighted_choice(torch.where(with_class.any(1, keepdim=True), with_class, together) / peers, generator)


def draw_nearest(
    group: Tensor, samples: Tensor, embeddings: Tensor, neighbours: int, *, generator: Generator | None = None
) -> Tensor:
    """Draw for every row one of the nearest rows of other samples in its group with equal probability.

    Args:
        group: Integer, shape ``(S,)``.
        samples: Sample that each row comes from, shape ``(S,)``.
        embeddings: One vector per row, shape ``(S, C)``, compared by Euclidean distance.
        neighbours: Number of nearest rows to draw from; all rows of other samples if there are fewer.

    Returns:
        Row indices, shape ``(S,)``; the row itself if its group holds no other sample.
    """
    count = embeddings.shape[0]
    itself = torch.eye(count, dtype=torch.bool, device=group.device)
    others = (group[:, None] == group) & (samples[:, None] != samples)
    wide = functional.upcast(embeddings.detach())
    distances = torch.cdist(wide, wide).masked_fill(~others, torch.inf)
    near = others & (distances.argsort(1).argsort(1) < neighbours)
    return _weighted_choice(torch.where(near.any(1, keepdim=True), near, itself).float(), generator)


def _weighted_choice(weights: Tensor, generator: Generator | None) -> Tensor:
    # The argmax of weight / Exponential(1) samples by weight; torch.multinomial would wait for the device.
    waits = torch.empty_like(weights).exponential_(**_from(generator)).clamp_min(torch.finfo(weights.dtype).tiny)
    return (weights / waits).argmax(1)


def _without_class(targets: Tensor) -> bool:
    """Return whether these are tags ``(B, L, ...)`` or values ``(B,)`` or ``(B, 1)``: no single class per sample."""
    if targets.is_floating_point():
        return targets.ndim != 2 or targets.shape[1] == 1
    return targets.ndim > 1


def class_of(targets: Tensor | None) -> Tensor:
    """Return the class of each sample, ``(B,)``, from class indices ``(B,)`` or one-hot or soft targets ``(B, K)``."""
    if targets is not None and targets.ndim == 1 and not targets.is_floating_point():
        return targets
    if targets is not None and targets.ndim == 2 and targets.is_floating_point():
        check_values(
            (targets.sum(1) - 1).abs() < 1e-2,
            "Sampling by class needs one class per sample: rows of targets (B, K) must sum to 1, which multi-label "
            'targets do not; use sampling="random" and partner="uniform".',
        )
        return targets.argmax(1)
    got = "no targets" if targets is None else f"{targets.dtype} of shape {tuple(targets.shape)}"
    raise ValueError(
        "Sampling by class needs class indices (B,) or floating-point targets (B, K), got "
        f'{got}; use sampling="random" and partner="uniform".'
    )


def draw_dropout(like: Tensor, rate: float, *, generator: Generator | None = None) -> Tensor:
    """Draw dropout factors, 0 with probability ``rate`` and else ``1 / (1 - rate)``, in shape and dtype of ``like``."""
    return torch.empty_like(like).bernoulli_(1 - rate, **_from(generator)).div_(1 - rate)
