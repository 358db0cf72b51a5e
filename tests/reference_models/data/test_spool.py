"""`Spool`, a list stored in a temporary file: all processes and threads read the same rows, and no file remains."""

import os
import random
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from reference_models.data.spool import Spool
from reference_models.errors import UserError

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(), max_size=5)
ROW = st.recursive(PLAIN, lambda row: st.lists(row, max_size=3) | st.dictionaries(st.text(), row, max_size=3))
ROWS = st.lists(ROW, max_size=6)


@given(ROWS)
def test_spool_holds_the_rows_of_a_list(rows: list[Any]) -> None:
    kept = Spool(iter(rows))
    assert len(kept) == len(rows)
    assert list(kept) == rows
    assert list(reversed(kept)) == rows[::-1]


@given(ROWS, st.integers(-8, 8))
def test_index_matches_a_list(rows: list[Any], index: int) -> None:
    kept = Spool(rows)
    if index in range(-len(rows), len(rows)):
        assert kept[index] == rows[index]
    else:
        with pytest.raises(IndexError):
            kept[index]


@given(ROWS, st.slices(6))
def test_slice_matches_a_list(rows: list[Any], indices: slice) -> None:
    assert Spool(rows)[indices] == rows[indices]


def test_rows_are_converted_by_dump_and_load_and_are_copies() -> None:
    kept = Spool([1 + 2j, 3 - 4j], lambda row: [row.real, row.imag], lambda row: complex(*row))
    assert list(kept) == [1 + 2j, 3 - 4j]
    lists: Spool[Any] = Spool([(1, 2)])
    lists[0].append(3)
    assert lists[0] == [1, 2]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_same_rows(method: str) -> None:
    rows = [f"row {number} \u2028" * number for number in range(40)]
    loader: DataLoader[str] = DataLoader(Spool(rows), 3, num_workers=2, multiprocessing_context=method, collate_fn=list)
    assert [row for batch in loader for row in batch] == rows


def test_threads_read_the_same_rows() -> None:
    rows = [str(number) * (number % 50) for number in range(500)]
    kept, indices = Spool(rows), random.Random(0).choices(range(500), k=5000)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(kept.__getitem__, indices)) == [rows[index] for index in indices]


def test_temporary_file_is_unlinked_and_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = Spool(range(10))
    file = os.fstat(kept._file.fileno())
    assert (file.st_dev, file.st_nlink) == (tmp_path.stat().st_dev, 0)
    assert not list(tmp_path.iterdir())
    descriptor = kept._file.fileno()
    del kept
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("rows", [1, 100_000])  # one row is written by the final flush, many rows before it
def test_full_disk_raises(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", partial(open, "/dev/full", "w+b"))
    with pytest.raises(UserError, match=rf"cannot be written in {tempfile.gettempdir()} \(.*No space left.* TMPDIR"):
        Spool(range(rows))


def test_missing_temporary_folder_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"cannot be written in .*gone \(.*No such file"):
        Spool([1])
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "gone")])
    with pytest.raises(UserError, match=r"cannot be written in any folder \(.*No usable temporary directory"):
        Spool([1])


def test_errors_of_the_row_iterator_propagate() -> None:
    with pytest.raises(UserError, match="row 3"):
        Spool(_failing_rows())


def _failing_rows() -> Iterator[int]:
    yield from range(3)
    raise UserError("row 3")
