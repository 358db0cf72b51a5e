"""How long a call takes, the time that a GPU goes on working included; and the memory that a GPU holds at most."""

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")

CPU = torch.device("cpu")


def timed(call: Callable[[], Result], *, device: torch.device = CPU) -> tuple[Result, float]:
    """What a call returns, and how many seconds it took until the device was done."""
    wait_for(device)
    start = time.perf_counter()
    result = call()
    wait_for(device)
    return result, time.perf_counter() - start


def seconds(call: Callable[[], object], *, device: torch.device = CPU) -> float:
    """How many seconds a call takes."""
    return timed(call, device=device)[1]


def median_seconds(call: Callable[[], object], *, repeats: int, warmup: int = 0, device: torch.device = CPU) -> float:
    """Median over so many calls, after `warmup` that do not count."""
    times = [seconds(call, device=device) for _ in range(warmup + repeats)]
    return statistics.median(times[warmup:])


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that it was given; a CPU has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def forget_peak(device: torch.device) -> None:
    """Let `peak_gib` begin anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """GiB of tensors on a CUDA device at most since `forget_peak`; None elsewhere."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
