"""Schedules of the strength: the three shapes, and invalid arguments."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnmixup.schedule import Shape, strength_at


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@given(steps=st.integers(1, 50), start=st.floats(0, 1), end=st.floats(0, 1))
def test_a_ramp_goes_from_start_to_end(shape: Shape, steps: int, start: float, end: float) -> None:
    ramp = [strength_at(step, steps=steps, shape=shape, start=start, end=end) for step in range(steps + 3)]
    assert ramp[0] == pytest.approx(start)
    assert ramp[steps:] == pytest.approx([end] * 3)
    assert all(min(start, end) - 1e-9 <= value <= max(start, end) + 1e-9 for value in ramp)
    assert ramp == pytest.approx(sorted(ramp, reverse=end < start))


def test_shapes_differ() -> None:
    quarter = {shape: strength_at(1, steps=4, shape=shape) for shape in ("constant", "linear", "cosine")}
    assert quarter == pytest.approx({"constant": 1.0, "linear": 0.25, "cosine": (1 - math.sqrt(0.5)) / 2})
    assert strength_at(0, steps=4, shape="constant", end=0.3) == 0.3


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"^shape must be one of 'constant', 'linear', 'cosine', got 'sine'"):
        strength_at(1, steps=2, shape="sine")
    for step, steps in ((-1, 2), (1, 0)):
        with pytest.raises(ValueError, match=f"step={step} and steps={steps}"):
            strength_at(step, steps=steps)
