"""Wall-clock time of a run by phase."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Phases:
    """Seconds of each phase since the last start of a run. Repeated phases are added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time spent in the context to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def summary(seconds: dict[str, float]) -> str:
    """Format the total and each phase with its seconds and percentage on one line, longest first."""
    whole = sum(seconds.values())
    parts = sorted(seconds.items(), key=lambda item: -item[1])
    return f"{whole:.1f} s: " + ", ".join(f"{name} {value:.1f} s ({value / whole:.0%})" for name, value in parts)
