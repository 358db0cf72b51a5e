"""Where the wall clock of a run goes: seconds of each phase."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Phases:
    """Seconds of each phase since a run was started, or started again after a stop; a phase may come several times."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add what happens within to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def summary(seconds: dict[str, float]) -> str:
    """One line: the whole, then each phase with its seconds and share, the longest first."""
    whole = sum(seconds.values())
    parts = sorted(seconds.items(), key=lambda item: -item[1])
    return f"{whole:.1f} s: " + ", ".join(f"{name} {value:.1f} s ({value / whole:.0%})" for name, value in parts)
