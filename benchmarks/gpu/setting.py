"""Device, model sizes and repeats of the sections."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.batches import Task
from benchmarks.gpu_plan import MODELS
from benchmarks.workload import SIZES, Size, make_model
from reference_models.systems.i2srm import I2SRM


@dataclass(frozen=True)
class Setting:
    """Settings of all sections.

    Attributes:
        device: Device that is checked and measured.
        reduced: Whether to use tiny models and few repeats. This tests the command itself; its times are not
            meaningful.
        folder: Folder for the files of a section.
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
        """The smallest model to measure."""
        return next(iter(self.sizes.values()))

    def new_model(self, task: Task, size: Size) -> I2SRM:
        """Return a model with random weights that are drawn on the device, which is faster than on a CPU."""
        with self.device:
            return make_model(task, size)

    @property
    def repeats(self) -> int:
        """Number of timed calls."""
        return 1 if self.reduced else 10

    @property
    def warmup(self) -> int:
        """Number of warm-up calls."""
        return 0 if self.reduced else 3

    @property
    def backend(self) -> str:
        """Backend of torch.compile."""
        return "aot_eager" if self.reduced else "inductor"

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a CUDA device."""
        return self.device.type == "cuda"
