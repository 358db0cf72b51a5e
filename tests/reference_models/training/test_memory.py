import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import config

from reference_models.errors import UserError
from reference_models.training import memory, run
from reference_models.training.memory import keep_freed_memory

# Faults of pages in the second of two rounds that take and free the same memory, in a process of its own.
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


def faults(way: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_memory_is_not_faulted_in_again():
    pages = 4 * 2**24 // 4096
    assert faults("keep") < pages / 20
    assert faults("plain") > pages / 2


@pytest.mark.parametrize("library", [object(), type("Library", (), {"mallopt": staticmethod(lambda name, value: 0)})()])
def test_another_c_library_is_refused(library, monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: library)
    with pytest.raises(UserError, match=r"training\.keep_memory is for Linux with the GNU C library"):
        keep_freed_memory()


def test_the_setting_is_read(monkeypatch, tmp_path: Path):
    def refuse() -> None:
        raise UserError("called")

    monkeypatch.setattr(run, "keep_freed_memory", refuse)
    with pytest.raises(UserError, match=r"^called$"):
        run.train(config(tmp_path, tmp_path / "run", "--training.keep_memory", "true"))
