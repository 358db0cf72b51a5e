"""Checks that several sections of the settings share."""

import math

from reference_models.errors import UserError


def check_at_least(settings: object, section: str, **least: float) -> None:
    """Check numbers against their least values.

    Raises:
        UserError: one is below, or not finite.
    """
    for name, bound in least.items():
        if not bound <= (value := getattr(settings, name)) < math.inf:
            raise UserError(f"{section}.{name} must be {bound} or more and finite, got {value}")
