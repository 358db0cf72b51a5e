"""A sequence that is kept in a temporary file, so that a million rows take a few megabytes of memory."""

from __future__ import annotations

import json
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.reduction import DupFd
from typing import Any, TypeVar, overload

from reference_models.errors import UserError

Row = TypeVar("Row")

to_line = json.JSONEncoder(separators=(",", ":")).encode


def as_it_is(row: Any) -> Any:
    """The row."""
    return row


class Spool(Sequence[Row]):
    """Rows that are written once, one JSON value a line, and read back whenever they are asked for.

    The file has no name, so that it goes with the last process that has it open, however that ends. Forked and spawned
    processes read the same file, at the same time as threads do. In memory a row takes the 8 bytes of its place. What
    is read is a copy: changing it changes nothing here.

    Args:
        rows: taken one by one.
        dump: makes of a row what `json.dumps` takes; rows that are so already come back with lists for tuples.
        load: makes a row of what `json.loads` gives; a function of a module or class, so that it can be pickled.

    Raises:
        UserError: the folder for temporary files is full, or cannot be written to.
    """

    def __init__(
        self, rows: Iterable[Row], dump: Callable[[Row], Any] = as_it_is, load: Callable[[Any], Row] = as_it_is
    ) -> None:
        self._load = load
        self._ends = array("Q", [0])
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the spool is)
            self._file.writelines(self._lines(rows, dump))
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"a temporary file cannot be written in {tempfile.tempdir or 'any folder'} ({error}); make room, or "
                "name another folder in the environment variable TMPDIR"
            ) from error

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        place = range(len(self))[index]
        if isinstance(place, range):
            return [self[number] for number in place]
        start, end = self._ends[place], self._ends[place + 1]
        # Unlike seek and read, this is one step, which other threads and processes cannot come between.
        return self._load(json.loads(os.pread(self._file.fileno(), end - start, start).decode()))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_file": DupFd(self._file.fileno())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _file=os.fdopen(state["_file"].detach(), "rb"))

    def _lines(self, rows: Iterable[Row], dump: Callable[[Row], Any]) -> Iterator[bytes]:
        for row in rows:
            line = f"{to_line(dump(row))}\n".encode("ascii")
            self._ends.append(self._ends[-1] + len(line))
            yield line
