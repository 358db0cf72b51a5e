"""Registry of named tasks, data formats, systems, detectors and metrics, and suggestions for unknown names."""

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from reference_models.errors import UserError

Known = TypeVar("Known")


class Registry(Mapping[str, Known]):
    """Mapping from names to registered objects, sorted by name.

    Args:
        kind: What the objects are, for messages, as in "data format".
        others: What can be given instead of a registered name, for the message about an unknown name.
    """

    def __init__(self, kind: str, others: str | None = None) -> None:
        self.kind, self.others = kind, others
        self._known: dict[str, Known] = {}

    def add(self, name: str, thing: Known) -> None:
        """Register an object. A class or function that is defined again, as in a notebook, replaces the old one.

        Args:
            name: Name of the object.
            thing: A class, a function, or an instance of a class that is used only for this object.

        Raises:
            ValueError: If another object is registered under this name.
        """
        if name in self._known and _origin(self._known[name]) != _origin(thing):
            _, other = _origin(self._known[name])
            raise ValueError(f"the {self.kind} {name!r} is already registered: {other}")
        self._known[name] = thing

    def __getitem__(self, name: str) -> Known:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._known))

    def __len__(self) -> int:
        return len(self._known)

    def find(self, name: str) -> Known:
        """Return the object registered under a name given by a user.

        Raises:
            UserError: If the name is unknown. The message lists all names and suggests the closest one.
        """
        if name not in self._known:
            raise unknown(self.kind, name, list(self), self.others)
        return self._known[name]


def unknown(kind: str, name: str, names: Collection[str], others: str | None = None) -> UserError:
    """Return the error for an unknown name.

    Args:
        kind: What the name stands for, as in "data format".
        name: The unknown name.
        names: All known names.
        others: What can be given instead of a name.

    Returns:
        An error that lists the known names and suggests a similar one, if there is any.
    """
    listed = ", ".join(names) + (f", or {others}" if others else "")
    return UserError(f"unknown {kind} {name!r}, expected one of {listed}{suggest(name, names)}")


def suggest(name: str, names: Collection[str]) -> str:
    """Return "; did you mean X?" for a similar name, to end a message; empty if there is none."""
    nearest = get_close_matches(name, names, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def suggest_path(path: Path) -> str:
    """Return "; did you mean X?" for a file or folder of a similar name beside a path that does not exist.

    Args:
        path: The path. If it exists, the result is empty.

    Returns:
        The end of a message; empty if nothing in the parent folder has a similar name.
    """
    if path.exists() or not path.parent.is_dir():
        return ""
    nearest = get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    return f"; did you mean {path.with_name(nearest[0])}?" if nearest else ""


def _origin(thing: object) -> tuple[str, str]:
    """Return module and name of a class or function, or of the class of another object."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return getattr(named, "__module__", ""), getattr(named, "__qualname__", "")
