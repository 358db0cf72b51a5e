"""Options of the mixup step, and presets: paper, release, recommended, and related published methods."""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from attnmixup.checks import check_choice, check_ratio

Sampling = Literal["random", "balanced", "slice"]
Partner = Literal["uniform", "derangement", "other_class", "balanced", "nearest"]
Lam = Literal["sample", "batch"]
Final = Literal["sample", "slice", "weight", "mixed"]
Averaging = Literal["together", "apart"]
Counts = Literal["round", "truncate"]
Preset = Literal["paper", "release", "recommended", "manifold_mixup", "batchformer", "nearest_mixup"]

PAPER: dict[str, Any] = {
    "score": "additive",
    "sequence": "pooled",
    "gate": False,
    "feed_forward": 0,
    "dropout": 0.2,
    "sample_ratio": 0.7,
    "transformed_ratio": 0.6,
    "sampling": "random",
    "partner": "uniform",
    "lam": "sample",
    "final": "sample",
    "averaging": "together",
    "counts": "round",
}
# The options in which each preset differs from the paper.
PRESETS: dict[Preset, dict[str, Any]] = {
    "paper": {},
    "release": {
        "score": "dot",
        "feed_forward": 2048,
        "sampling": "slice",
        "lam": "batch",
        "final": "slice",
        "averaging": "apart",
        "counts": "truncate",
    },
    "recommended": {
        "score": "cosine",
        "sequence": "sample",
        "gate": True,
        "sampling": "balanced",
        "sample_ratio": 0.85,
        "transformed_ratio": 0.0,
    },
    "manifold_mixup": {"sample_ratio": 1.0, "transformed_ratio": 0.0, "lam": "batch", "final": "mixed"},
    "batchformer": {"score": "dot", "feed_forward": "dim", "dropout": 0.5, "transformed_ratio": 1.0},
    "nearest_mixup": {"sample_ratio": 1.0, "transformed_ratio": 0.0, "partner": "nearest"},
}


def preset_options(preset: Preset | None, dim: int, given: dict[str, Any]) -> dict[str, Any]:
    """Return the options. Those that are None come from the preset (default ``"paper"``) for width ``dim``."""
    preset = preset or "paper"
    check_choice("preset", preset, Preset)
    options = PAPER | PRESETS[preset] | {name: value for name, value in given.items() if value is not None}
    if options["feed_forward"] == "dim":
        options["feed_forward"] = dim
    return options


@dataclass(frozen=True, kw_only=True)
class MixupOptions:
    """Options for the pairs and the final set; :class:`attnmixup.AttnMixup` documents each option."""

    sample_ratio: float
    transformed_ratio: float
    alpha: float
    sampling: Sampling
    partner: Partner
    neighbours: int
    lam: Lam
    final: Final
    averaging: Averaging
    counts: Counts
    sample_share: tuple[int, int] = field(init=False, repr=False)
    transformed_share: tuple[int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_ratio("sample_ratio", self.sample_ratio)
        check_ratio("transformed_ratio", self.transformed_ratio)
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha must be positive and finite, got {self.alpha}.")
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {self.neighbours}.")
        check_choice("sampling", self.sampling, Sampling)
        check_choice("partner", self.partner, Partner)
        check_choice("lam", self.lam, Lam)
        check_choice("final", self.final, Final)
        check_choice("averaging", self.averaging, Averaging)
        check_choice("counts", self.counts, Counts)
        if self.final == "mixed" and self.averaging == "apart":
            raise ValueError('final="mixed" trains only on synthetic rows: use averaging="together".')
        object.__setattr__(self, "sample_share", _fraction(self.sample_ratio))
        object.__setattr__(self, "transformed_share", _fraction(self.transformed_ratio))

    def num_original(self, size: int) -> int:
        """Return the number of rows of H in the set of Eq. 13, for a batch of this size."""
        return self._count(self.sample_share, size)

    def num_transformed_in_slice(self, size: int) -> int:
        """Return how many rows of H* are in the set of Eq. 13 for ``sampling="slice"``: all but the first 1 - delta."""
        kept, whole = self.sample_share
        return size - self._count((whole - kept, whole), size) if self.counts == "truncate" else self.num_original(size)

    def num_transformed(self, size: int) -> int:
        """Return the number of rows of H* in the final set of Eq. 16, for a batch of this size."""
        return self._count(self.transformed_share, size)

    def num_mixed(self, pairs: int) -> int:
        """Return the number of mixed rows that ``final="slice"`` keeps, the first 1 - Delta of all pairs."""
        kept, whole = self.transformed_share
        return self._count((whole - kept, whole), pairs)

    def never_transforms(self, size: int) -> bool:
        """Return whether no row of H* is used, as in plain mixup."""
        if self.sampling == "slice":
            none_in_pairs = self.num_transformed_in_slice(size) == 0
        else:
            none_in_pairs = self.num_original(size) == size
        none_kept = self.final == "mixed" or (self.final != "weight" and self.num_transformed(size) == 0)
        return none_in_pairs and none_kept

    def _count(self, share: tuple[int, int], size: int) -> int:
        top, bottom = share
        return top * size // bottom if self.counts == "truncate" else rounded_share(share, size)


def rounded_share(share: tuple[int, int], size: int) -> int:
    """Compute ``share * size``, rounded half up, in integer arithmetic, so that one graph serves all sizes."""
    top, bottom = share
    return (2 * top * size + bottom) // (2 * bottom)


def _fraction(ratio: float) -> tuple[int, int]:
    return Fraction(ratio).limit_denominator(10_000).as_integer_ratio()
