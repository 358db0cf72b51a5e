"""Parallel file reading: a `map` over threads that works a bounded number of items ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Value = TypeVar("Value")
Result = TypeVar("Result")
THREADS = 4
AHEAD = 32  # maximum number of values processed before their results are requested


def map_ahead(function: Callable[[Value], Result], values: Iterable[Value]) -> Iterator[Result]:
    """Map a function over values with threads, in order, at most `AHEAD` values ahead of the consumer."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[Result]] = deque()
        for value in values:
            waiting.append(pool.submit(function, value))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
