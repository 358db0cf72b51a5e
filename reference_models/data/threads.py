"""Files are read by a few threads at once, a little ahead of where their contents are needed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Value = TypeVar("Value")
Result = TypeVar("Result")
THREADS = 4
AHEAD = 32  # values that are worked on before their results are asked for


def map_ahead(function: Callable[[Value], Result], values: Iterable[Value]) -> Iterator[Result]:
    """`map` by threads, in order, which takes values only as far ahead as results are asked for."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[Result]] = deque()
        for value in values:
            waiting.append(pool.submit(function, value))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
