"""What is random in AttnMixup: lambda, partners and subsets. Drawn here, on the device, and applied elsewhere."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from attnmixup import functional
from attnmixup.checks import check_values
from attnmixup.options import MixupOptions


@dataclass(frozen=True, eq=False)
class MixupPlan:
    """Everything that is random about one mixup step.

    ``first`` and ``second`` count rows of H (0 to B - 1) followed by rows of H* (B to 2B - 1).

    Attributes:
        transformed: Rows of H* that enter the final set, shape ``(T,)``.
        first: First of each pair, shape ``(M,)``.
        second: Second of each pair, shape ``(M,)``.
        lam: Weight of the first, shape ``(M,)``.
        size: Number of samples B that the plan is for.
    """

    transformed: Tensor
    first: Tensor
    second: Tensor
    lam: Tensor
    size: int

    def check(self, size: int) -> None:
        """Raise ValueError unless the plan is for ``size`` samples and its parts go together."""
        if self.size != size:
            raise ValueError(f"The plan is for {self.size} samples, the batch has {size}: draw one by draw({size}).")
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
    """Draw what is random about mixing ``size`` samples; :meth:`attnmixup.AttnMixup.draw` documents the arguments."""
    if device is None:
        given = next((tensor for tensor in (targets, group, embeddings) if tensor is not None), None)
        device = None if given is None else given.device
    rows = torch.arange(size, device=device)
    group = torch.zeros_like(rows) if group is None else group
    num_original = options.num_original(size)
    if options.sampling == "slice":
        pairing_set = torch.cat([rows[:num_original], rows[size - options.num_transformed_in_slice(size) :] + size])
    else:
        transformed_in_set = draw_rows(size, size, generator=generator, device=device) >= num_original
        balanced = options.sampling == "balanced" and not _without_class(targets)
        rows_of_set = draw_balanced(group, class_of(targets), generator=generator) if balanced else rows
        pairing_set = rows_of_set + size * transformed_in_set

    sources = pairing_set % size
    group = group[sources]
    if options.partner in ("uniform", "derangement"):
        draw_within = draw_permutation if options.partner == "uniform" else draw_derangement
        partner = draw_within(group, generator=generator)
    elif options.partner == "nearest":
        if embeddings is None:
            raise ValueError('partner="nearest" needs embeddings.')
        partner = draw_nearest(group, embeddings[sources], options.neighbours, generator=generator)
    else:
        draw_partner = draw_other_class if options.partner == "other_class" else draw_balanced
        partner = draw_partner(group, class_of(targets)[sources], generator=generator)

    num_transformed = options.num_transformed(size)
    if options.final == "sample":
        if options.sampling == "slice" and pairing_set.shape[0] < size - num_transformed:
            raise ValueError(
                f'sampling="slice" with sample_ratio={options.sample_ratio} makes {pairing_set.shape[0]} pairs of '
                f'{size} samples, final="sample" needs {size - num_transformed}: raise sample_ratio or '
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
    # torch.compile breaks its graph at generator=None given by keyword.
    return {} if generator is None else {"generator": generator}


def draw_lam(
    alpha: float, count: int, *, generator: Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """Draw lambda from Beta(alpha, alpha), shape ``(count,)``.

    Two Gamma(alpha) variates, x / (x + y), taken in log space as Gamma(alpha + 1) times U^(1 / alpha): exact, and
    without the underflow that a small alpha has.
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


def draw_derangement(group: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Draw a random cyclic order of each group and map every row to the next: no row to itself, unless it is alone.

    Args:
        group: Integer, shape ``(S,)``.

    Returns:
        Row indices, shape ``(S,)``.
    """
    places = _shuffled_by_group(group, generator)
    ordered = group[places]
    positions = torch.arange(group.shape[0], device=group.device)
    last = torch.searchsorted(ordered, ordered, right=True) - 1
    following = torch.where(positions == last, torch.searchsorted(ordered, ordered), positions + 1)
    return torch.empty_like(places).scatter(0, places, places[following])


def draw_other_class(group: Tensor, classes: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Draw for every row a partner of its group and another class; any row of the group if there is none.

    Args:
        group: Integer, shape ``(S,)``.
        classes: Class of each row, shape ``(S,)``.

    Returns:
        Row indices, shape ``(S,)``.
    """
    together = group[:, None] == group
    other = together & (classes[:, None] != classes)
    return _weighted_choice(torch.where(other.any(1, keepdim=True), other, together).float(), generator)


def draw_balanced(group: Tensor, classes: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Draw for every row a partner whose class is uniform over the classes of its group.

    Args:
        group: Integer, shape ``(S,)``.
        classes: Class of each row, shape ``(S,)``.

    Returns:
        Row indices, shape ``(S,)``.
    """
    together = group[:, None] == group
    peers = (together & (classes[:, None] == classes)).sum(1)
    return _weighted_choice(together / peers, generator)


def draw_nearest(group: Tensor, embeddings: Tensor, neighbours: int, *, generator: Generator | None = None) -> Tensor:
    """Draw for every row one of its nearest others in the group, all alike; itself if it is alone.

    Args:
        group: Integer, shape ``(S,)``.
        embeddings: One vector of each row, shape ``(S, C)``, compared by their Euclidean distance.
        neighbours: Number of others to draw from; all others where they are fewer.

    Returns:
        Row indices, shape ``(S,)``.
    """
    count = embeddings.shape[0]
    itself = torch.eye(count, dtype=torch.bool, device=group.device)
    others = (group[:, None] == group) & ~itself
    wide = functional.upcast(embeddings.detach())
    distances = torch.cdist(wide, wide).masked_fill(~others, torch.inf)
    near = others & (distances.argsort(1).argsort(1) < neighbours)
    return _weighted_choice(torch.where(near.any(1, keepdim=True), near, itself).float(), generator)


def _weighted_choice(weights: Tensor, generator: Generator | None) -> Tensor:
    # The largest of weight / Exponential(1) is a draw by weight; torch.multinomial would wait for the device.
    waits = torch.empty_like(weights).exponential_(**_from(generator)).clamp_min(torch.finfo(weights.dtype).tiny)
    return (weights / waits).argmax(1)


def _without_class(targets: Tensor | None) -> bool:
    """Whether these are tags ``(B, L)`` or values ``(B,)``, of which no sample has one class."""
    return targets is not None and (targets.ndim == 1) == targets.is_floating_point()


def class_of(targets: Tensor | None) -> Tensor:
    """Class of each sample, shape ``(B,)``, from class indices ``(B,)`` or one-hot or soft targets ``(B, K)``."""
    if targets is not None and targets.ndim == 1 and not targets.is_floating_point():
        return targets
    if targets is not None and targets.ndim == 2 and targets.is_floating_point():
        check_values(
            (targets.sum(1) - 1).abs() < 1e-2,
            "Samples can be chosen by class only where each has one: rows of targets (B, K) must sum to 1, which "
            'several labels of a sample do not; use sampling="random" and partner="uniform".',
        )
        return targets.argmax(1)
    got = "no targets" if targets is None else f"{targets.dtype} of shape {tuple(targets.shape)}"
    raise ValueError(
        "Samples can be chosen by class only for class indices (B,) or floating-point targets (B, K), got "
        f'{got}; use sampling="random" and partner="uniform".'
    )


def draw_dropout(like: Tensor, rate: float, *, generator: Generator | None = None) -> Tensor:
    """Draw the factors of dropout, 0 at this rate and else ``1 / (1 - rate)``, in the shape and dtype of ``like``."""
    return torch.empty_like(like).bernoulli_(1 - rate, **_from(generator)).div_(1 - rate)
