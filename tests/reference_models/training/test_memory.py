"""Freed memory is kept by the process and reused without page faults."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from reference_models.errors import UserError
from reference_models.training import run
from reference_models.training.memory import keep_freed_memory
from tests.reference_models.training.tiny_runs import config

# Page faults in the second of two rounds that allocate and free the same memory, in a separate process.
FAULTS = """
import resource, sys
from reference_models.training.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(2**24) for _ in range(4)]
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    del blocks
print(faults)
"""


def page_faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_kept_memory_causes_few_page_faults() -> None:
    pages = 4 * 2**24 // 4096
    assert page_faults("keep") < pages / 20
    assert page_faults("plain") > pages / 2


@pytest.mark.parametrize("library", [object(), type("Library", (), {"mallopt": staticmethod(lambda name, value: 0)})()])
def test_unsupported_c_library_raises(library: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    with pytest.raises(UserError, match=r"training\.keep_memory is for Linux with the GNU C library"):
        keep_freed_memory()


def test_keep_memory_setting_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse() -> None:
        raise UserError("called")

    monkeypatch.setattr(run, "keep_freed_memory", refuse)
    with pytest.raises(UserError, match=r"^called$"):
        run.train(config(tmp_path, tmp_path / "run", "--training.keep_memory", "true"))
