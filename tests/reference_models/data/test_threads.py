"""`map_ahead` keeps the order of the inputs and reads only a limited number of them ahead."""

import random
import time
from collections.abc import Iterator

from reference_models.data.threads import AHEAD, map_ahead


def test_map_ahead_keeps_the_order_and_limits_the_lookahead() -> None:
    taken = 0

    def values() -> Iterator[int]:
        nonlocal taken
        for value in range(1, 201):
            taken = value
            yield value

    def slow_square(value: int) -> int:
        time.sleep(random.random() / 1000)
        return value * value

    got = []
    for square in map_ahead(slow_square, values()):
        got.append(square)
        assert taken - len(got) <= AHEAD
    assert got == [value * value for value in range(1, 201)]
    assert list(map_ahead(slow_square, [])) == []
