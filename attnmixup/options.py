"""The options of the mixup step, and the two presets: the paper's equations and the code published with it."""

from dataclasses import dataclass
from typing import Any, Literal

from attnmixup.checks import check_choice, check_ratio

Sampling = Literal["random", "slice"]
Partner = Literal["uniform", "other_class", "balanced"]
Lam = Literal["sample", "batch"]
Final = Literal["sample", "slice", "weight"]
Averaging = Literal["together", "apart"]
Preset = Literal["paper", "release"]

PRESETS: dict[Preset, dict[str, Any]] = {
    "paper": {
        "score": "additive",
        "feed_forward": 0,
        "sampling": "random",
        "lam": "sample",
        "final": "sample",
        "averaging": "together",
    },
    "release": {
        "score": "dot",
        "feed_forward": 2048,
        "sampling": "slice",
        "lam": "batch",
        "final": "slice",
        "averaging": "apart",
    },
}


@dataclass(frozen=True, kw_only=True)
class MixupOptions:
    """How pairs are made and what enters the final set; :class:`attnmixup.AttnMixup` says what each option does."""

    sample_ratio: float
    transformed_ratio: float
    alpha: float
    sampling: Sampling
    partner: Partner
    lam: Lam
    final: Final
    averaging: Averaging

    def __post_init__(self) -> None:
        check_ratio("sample_ratio", self.sample_ratio)
        check_ratio("transformed_ratio", self.transformed_ratio)
        if self.alpha <= 0:
            raise ValueError(f"alpha must be positive, got {self.alpha}.")
        check_choice("sampling", self.sampling, Sampling)
        check_choice("partner", self.partner, Partner)
        check_choice("lam", self.lam, Lam)
        check_choice("final", self.final, Final)
        check_choice("averaging", self.averaging, Averaging)
