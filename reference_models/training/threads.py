"""How many threads compute on the CPU: as many as are set, or as many as a short measurement finds to be fastest."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from reference_models.config.training import Threads

ROUNDS = 5
ROWS, WIDTH, INNER = 512, 768, 3072  # a feed-forward layer of a base encoder, on a batch of sentences


@contextmanager
def computing_threads(threads: Threads) -> Iterator[None]:
    """Let PyTorch compute with so many threads inside, and restore what was set before.

    Threads wait for each other after each operation: where others have the cores, one more thread can make a step
    several times slower.

    Args:
        threads: how many; 0 leaves them as they are, "measured" takes the fastest number.

    Returns:
        A context manager.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(fastest_threads() if threads == "measured" else threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fastest_threads() -> int:
    """The number of threads, of 1, 2, 4, ... and all that PyTorch may use now, with the lowest median time of a layer.

    The numbers take turns, so that a slow moment of the machine falls on all of them.
    """
    most: int = torch.get_num_threads()
    numbers = sorted({*(1 << power for power in range(most.bit_length())), most})
    times: dict[int, list[float]] = {number: [] for number in numbers}
    try:
        for _ in range(1 + ROUNDS):
            for number, taken in times.items():
                torch.set_num_threads(number)
                taken.append(layer_seconds())
    finally:
        torch.set_num_threads(most)
    # The first round does not count: there threads are made and memory is faulted in.
    medians = {number: statistics.median(taken[1:]) for number, taken in times.items()}
    return min(numbers, key=medians.__getitem__)


def layer_seconds() -> float:
    """Seconds of some feed-forward layers, with the threads that are set."""
    hidden, up, down = torch.zeros(ROWS, WIDTH), torch.zeros(INNER, WIDTH), torch.zeros(WIDTH, INNER)
    start = time.perf_counter()
    for _ in range(4):
        F.linear(F.gelu(F.linear(hidden, up)), down)
    return time.perf_counter() - start
