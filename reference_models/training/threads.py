"""Number of CPU threads: as set, or the fastest number in a short measurement."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from reference_models.config.training import Threads

ROUNDS = 5
ROWS, WIDTH, INNER = 512, 768, 3072  # a feed-forward layer of a base encoder, on a mini-batch of sentences


@contextmanager
def computing_threads(threads: Threads) -> Iterator[None]:
    """Set the number of PyTorch threads inside the context, and restore it afterwards.

    Threads wait for each other after each operation. If other programs use the cores, one thread too many can make a
    step several times slower.

    Args:
        threads: Number of threads; 0 for no change, "measured" for `fastest_threads`.

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
    """Return the number of threads with the lowest median time of a layer.

    The candidates are 1, 2, 4, ... and the current number of PyTorch threads. They are measured in alternation, so that
    a slow moment of the machine affects all of them.
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
    # Ignore the first round, which creates threads and allocates memory.
    medians = {number: statistics.median(taken[1:]) for number, taken in times.items()}
    return min(numbers, key=medians.__getitem__)


def layer_seconds() -> float:
    """Measure the seconds of some feed-forward layers with the current number of threads."""
    hidden, up, down = torch.zeros(ROWS, WIDTH), torch.zeros(INNER, WIDTH), torch.zeros(WIDTH, INNER)
    start = time.perf_counter()
    for _ in range(4):
        F.linear(F.gelu(F.linear(hidden, up)), down)
    return time.perf_counter() - start
