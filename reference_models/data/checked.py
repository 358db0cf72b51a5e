"""Record of images that were decoded successfully, so that later runs do not check them again."""

from pathlib import Path

import numpy as np
from filelock import FileLock

from reference_models.data.features import KEY
from reference_models.errors import UserError
from reference_models.files import writable

VERSION = 1  # increase when a code change affects which files can be decoded
FILE = f"checked-{VERSION}.keys"


def read_checked(folder: Path) -> np.ndarray:
    """Return the recorded content keys, (N,) of dtype `KEY`, sorted; empty if there is no record yet.

    Raises:
        UserError: If the file is damaged.
    """
    file = folder / FILE
    if not file.is_file():
        return np.empty(0, KEY)
    content = file.read_bytes()
    if len(content) % np.dtype(KEY).itemsize:
        raise UserError(f"{file} is damaged; delete it, and the next run checks the images again")
    return np.frombuffer(content, KEY)


def add_checked(folder: Path, keys: np.ndarray) -> None:
    """Add content keys, (N,) of dtype `KEY`, to the record; other processes may add keys at the same time."""
    file = folder / FILE
    with writable(file):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{FILE}.lock"):
            partial = file.with_name(f"{FILE}.partial")
            partial.write_bytes(np.union1d(read_checked(folder), keys).tobytes())
            partial.replace(file)
