"""Compute how long a training step should take on an H100, from the same counts as on a CPU. Nothing is measured.

python -m benchmarks.gpu_plan

The time is at least that of the operations at the bfloat16 peak plus that of moving weights and moments. It is also at
least the time to launch the kernels, one per PyTorch operation. Memory is weights, gradients and moments in float32,
plus activations in bfloat16: 34 C bytes per token and layer, as counted by Korthikanti et al. (2022).
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.batches import Task, length_groups
from benchmarks.counts import necessary_bytes, necessary_flops, state_bytes
from benchmarks.variants import OURS, computing, make_optimizers, training_step
from benchmarks.workload import SIZES, TINY_TEXT, Size, leave_out_dropout, make_model, make_work
from reference_models.systems.i2srm import I2SRM

PEAK = 989e12  # operations per second of dense bfloat16 products, H100 SXM, from its data sheet
BANDWIDTH = 3.35e12  # bytes per second, H100 SXM, from its data sheet
LAUNCH = 5e-6  # seconds per kernel, assumed
REACHED = 0.5  # share of the peak that products of this size reach, assumed
ACTIVATIONS = 34  # bytes per token, layer and unit of width
WAY = replace(OURS, half=torch.bfloat16, fast_dropout=False)
BATCH_SIZES: dict[Task, tuple[int, ...]] = {"ner": (8, 64), "re": (16, 128)}

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
MODELS = {"RoBERTa-base": SIZES["base"], "RoBERTa-large": replace(SIZES["base"], text=LARGE)}


class Launches(TorchDispatchMode):
    """Count the operations that compute something (views do not); `count` is their number so far."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


def launches(task: Task, size: Size) -> int:
    """Return the number of operations of a step in bfloat16, counted on a narrow model of the same depth.

    Widths do not change the number. The first step is not counted, because it creates AdamW's moments. Dropout is left
    out: on a CPU it takes several operations instead of one, and attention with it is not a single operation.
    """
    depth = size.text.get("num_hidden_layers", 12)
    model = make_model(task, replace(SIZES["tiny"], text=TINY_TEXT | {"num_hidden_layers": depth}))
    leave_out_dropout(model)
    work = make_work(model, torch.tensor([20, 24]), SIZES["tiny"].side).batch(WAY)
    step = partial(training_step, model, make_optimizers(model)[True], work, WAY)
    counter = Launches()  # type: ignore[no-untyped-call]
    with computing(model, WAY):
        step()
        with counter:
            step()
    return counter.count


def memory(model: I2SRM, tokens: int) -> float:
    """Return the bytes kept between steps plus those of the activations."""
    config = model.text_encoder.body.config
    activations: int = ACTIVATIONS * config.hidden_size * config.num_hidden_layers * tokens
    return state_bytes(model) + activations


@dataclass(frozen=True)
class Plan:
    """Operations and bytes of a step, and its expected time.

    Attributes:
        flops: Number of operations.
        moved: Bytes of weights, gradients and moments that are moved.
        kernels: Number of PyTorch operations.
        memory: Bytes of memory held.
    """

    flops: float
    moved: float
    kernels: int
    memory: float

    @property
    def floor(self) -> float:
        """Lower bound of the step time on this machine, in seconds."""
        return self.flops / PEAK + self.moved / BANDWIDTH

    @property
    def launching(self) -> float:
        """Time to launch the kernels, in seconds."""
        return LAUNCH * self.kernels

    @property
    def expected(self) -> float:
        """Expected time of a step, in seconds."""
        return max(self.flops / PEAK / REACHED + self.moved / BANDWIDTH, self.launching)


def make_plan(task: Task, size: Size, lengths: torch.Tensor, kernels: int) -> Plan:
    """Return the plan of a step on sentences of these lengths, with the feature cache."""
    with torch.device("meta"):
        model = make_model(task, size)
    flops = necessary_flops(model, lengths, cached=True, side=size.side)
    return Plan(flops, necessary_bytes(model), kernels, memory(model, int(lengths.sum())))


def main() -> None:
    print("| task | encoder | B | TFLOP | GB moved | kernels | floor ms | launching ms | expected ms | memory GB |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for task, batch_sizes in BATCH_SIZES.items():
        for name, size in MODELS.items():
            kernels = launches(task, size)
            for samples in batch_sizes:
                plan = make_plan(task, size, length_groups(task, samples, 1)[0], kernels)
                cells = [task, name, samples, f"{plan.flops / 1e12:.2f}", f"{plan.moved / 1e9:.1f}", kernels]
                cells += [f"{1e3 * time:.1f}" for time in (plan.floor, plan.launching, plan.expected)]
                print(f"| {' | '.join(map(str, cells))} | {plan.memory / 1e9:.1f} |")


if __name__ == "__main__":
    main()
