"""Time of a call, including asynchronous work on a GPU, and peak memory of a GPU."""

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")

CPU = torch.device("cpu")


def timed(call: Callable[[], Result], *, device: torch.device = CPU) -> tuple[Result, float]:
    """Return the result of a call, and the seconds until the device was done."""
    wait_for(device)
    start = time.perf_counter()
    result = call()
    wait_for(device)
    return result, time.perf_counter() - start


def seconds(call: Callable[[], object], *, device: torch.device = CPU) -> float:
    """Return the seconds that a call takes."""
    return timed(call, device=device)[1]


def median_seconds(call: Callable[[], object], *, repeats: int, warmup: int = 0, device: torch.device = CPU) -> float:
    """Return the median time of `repeats` calls in seconds, after `warmup` calls."""
    times = [seconds(call, device=device) for _ in range(warmup + repeats)]
    return statistics.median(times[warmup:])


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished all work (a no-op on a CPU)."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def forget_peak(device: torch.device) -> None:
    """Reset the peak that `peak_gib` returns."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """Return the peak GiB of tensors on a CUDA device since `forget_peak`; None on other devices."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
