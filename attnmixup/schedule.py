"""Schedules for the strength of AttnMixup over the training steps."""

import math
from typing import Literal

from attnmixup.checks import check_choice

Shape = Literal["constant", "linear", "cosine"]


def strength_at(step: int, *, steps: int, shape: Shape = "linear", start: float = 0.0, end: float = 1.0) -> float:
    """Compute the strength after ``step`` steps of a ramp from ``start`` to ``end``, for ``AttnMixup.set_strength``.

    Args:
        step: Number of completed steps.
        steps: Length of the ramp; the strength stays at ``end`` afterwards.
        shape: ``"linear"``, ``"cosine"`` (slow at both ends), or ``"constant"``, which is always ``end``.
        start: Strength at step 0.
        end: Strength from ``steps`` on.

    Returns:
        The strength, between ``start`` and ``end``.

    Example:
        >>> [strength_at(step, steps=4) for step in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
    """
    check_choice("shape", shape, Shape)
    if step < 0 or steps < 1:
        raise ValueError(f"step must be at least 0 and steps at least 1, got step={step} and steps={steps}.")
    if shape == "constant":
        return end
    done = min(step / steps, 1.0)
    if shape == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return start + (end - start) * done
