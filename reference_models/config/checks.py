"""Checks shared by several sections of the settings."""

import math

from reference_models.errors import UserError


def check_at_least(settings: object, section: str, **least: float) -> None:
    """Check settings against their minimum values.

    Raises:
        UserError: If a value is below its minimum or not finite.
    """
    for name, bound in least.items():
        if not bound <= (value := getattr(settings, name)) < math.inf:
            raise UserError(f"{section}.{name} must be {bound} or more and finite, got {value}")
