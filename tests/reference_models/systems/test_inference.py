"""Batches of similar length: every sample once, and results in input order."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_models.systems.inference import map_by_length


@given(st.lists(st.integers(1, 9)), st.integers(1, 5))
def test_samples_are_computed_once_by_length_and_returned_in_order(lengths: list[int], batch_size: int) -> None:
    batches: list[list[int]] = []

    def function(numbers: list[int]) -> list[str]:
        batches.append([lengths[number] for number in numbers])
        return [f"result {number}" for number in numbers]

    assert map_by_length(lengths, batch_size, function) == [f"result {number}" for number in range(len(lengths))]
    assert list(chain(*batches)) == sorted(lengths, reverse=True)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(0 < len(batch) <= batch_size for batch in batches)


def test_missing_result_raises() -> None:
    with pytest.raises(ValueError, match="shorter"):
        map_by_length([3, 1, 2], 2, lambda numbers: [0])
