"""A sequence stored in a temporary file, so that a million rows take a few megabytes of memory."""

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


def identity(row: Any) -> Any:
    """Return the row unchanged."""
    return row


class Spool(Sequence[Row]):
    """Rows that are written once, one JSON value per line, and read back on access.

    The file has no name, so the system deletes it when the last process closes it or dies. Forked and spawned processes
    and threads can read it at the same time. A row takes 8 bytes of memory, for its position. Every access returns a
    new copy; changing it does not change the stored row.

    Args:
        rows: Rows to store; consumed one by one.
        dump: Converts a row to a value for `json.dumps`. By default the row itself, in which tuples become lists.
        load: Converts a value from `json.loads` to a row. It must be picklable, for example a function of a module.

    Raises:
        UserError: If the folder for temporary files is full or not writable.
    """

    def __init__(
        self, rows: Iterable[Row], dump: Callable[[Row], Any] = identity, load: Callable[[Any], Row] = identity
    ) -> None:
        self._load = load
        self._ends = array("Q", [0])
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the spool is)
            self._file.writelines(self._lines(rows, dump))
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"a temporary file cannot be written in {tempfile.tempdir or 'any folder'} ({error}); free disk space, "
                "or set the environment variable TMPDIR to another folder"
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
        # Unlike seek and read, `pread` is safe when threads and processes share the file.
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
