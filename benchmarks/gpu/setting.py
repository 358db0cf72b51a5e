"""Where and at which size the sections measure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu_plan import MODELS
from benchmarks.workload import SIZES, Size


@dataclass(frozen=True)
class Setting:
    """What all sections are given.

    Attributes:
        device: that is checked and measured.
        reduced: tiny models and few repeats, which say nothing about speed: to see that the command itself works.
        folder: for files that a section needs.
    """

    device: torch.device
    reduced: bool
    folder: Path

    @property
    def sizes(self) -> Mapping[str, Size]:
        """Models to measure, by name."""
        return {"tiny": SIZES["tiny"]} if self.reduced else MODELS

    @property
    def first_size(self) -> Size:
        """The smallest of them."""
        return next(iter(self.sizes.values()))

    @property
    def repeats(self) -> int:
        """Of what is timed."""
        return 1 if self.reduced else 10

    @property
    def warmup(self) -> int:
        """Calls before, which do not count."""
        return 0 if self.reduced else 3

    @property
    def backend(self) -> str:
        """Of torch.compile."""
        return "aot_eager" if self.reduced else "inductor"

    @property
    def is_cuda(self) -> bool:
        """Whether what CUDA alone has can be checked."""
        return self.device.type == "cuda"
