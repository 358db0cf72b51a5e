"""What is known under a name: tasks, data formats, systems, detectors and metrics, of this package and of others."""

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import TypeVar

from reference_models.errors import UserError

Known = TypeVar("Known")


class Registry(Mapping[str, Known]):
    """Things by name, in the order of the alphabet.

    Args:
        kind: what they are, for messages, as in "data format".
        others: how to name one that is not registered, for the message of an unknown name.
    """

    def __init__(self, kind: str, others: str | None = None) -> None:
        self.kind, self.others = kind, others
        self._known: dict[str, Known] = {}

    def add(self, name: str, thing: Known) -> None:
        """Make a thing known. One that is defined again, as in a notebook, takes the place of its former self.

        Args:
            name: of the thing.
            thing: a class or a function, or an instance of a class of its own.

        Raises:
            ValueError: something else has this name.
        """
        if name in self._known and _origin(self._known[name]) != _origin(thing):
            _, other = _origin(self._known[name])
            raise ValueError(f"there is another {self.kind} {name!r} already: {other}")
        self._known[name] = thing

    def __getitem__(self, name: str) -> Known:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._known))

    def __len__(self) -> int:
        return len(self._known)

    def find(self, name: str) -> Known:
        """What a user names.

        Returns:
            The thing of this name.

        Raises:
            UserError: there is none; the message lists the names, and suggests the nearest.
        """
        if name not in self._known:
            raise unknown(self.kind, name, list(self), self.others)
        return self._known[name]


def unknown(kind: str, name: str, names: Collection[str], others: str | None = None) -> UserError:
    """The error for a name that nothing has.

    Args:
        kind: what was looked for, as in "data format".
        name: that was given.
        names: of all that there are.
        others: what can be given instead of a name.

    Returns:
        An error that lists the names, and suggests the nearest one if there is one near.
    """
    listed = ", ".join(names) + (f", or {others}" if others else "")
    return UserError(f"unknown {kind} {name!r}, expected one of {listed}{suggest(name, names)}")


def suggest(name: str, names: Collection[str]) -> str:
    """The end of a message: "; did you mean X?" where one of the names is near, else nothing."""
    nearest = get_close_matches(name, names, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _origin(thing: object) -> tuple[str, str]:
    """Module and name of a class or a function, or of the class of anything else."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return getattr(named, "__module__", ""), getattr(named, "__qualname__", "")
