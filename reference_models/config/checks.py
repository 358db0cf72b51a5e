"""Checks shared by several sections of the settings."""

import math

from reference_models.errors import UserError

LARGEST_SEED = 2**32 - 1  # of NumPy


def check_at_least(settings: object, section: str, **least: float) -> None:
    """Check settings against their minimum values.

    Raises:
        UserError: If a value is below its minimum or not finite.
    """
    for name, bound in least.items():
        if not bound <= (value := getattr(settings, name)) < math.inf:
            raise UserError(f"{section}.{name} must be {bound} or more and finite, got {value}")


def check_seed(name: str, seed: int) -> None:
    """Check a seed of random numbers.

    Args:
        name: Name of the setting or option, for the message.
        seed: The seed.

    Raises:
        UserError: If NumPy does not accept the seed.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"{name} must be a whole number from 0 to {LARGEST_SEED}, got {seed}")
