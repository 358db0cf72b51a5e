"""Reading and writing of files, with error messages that name the file and say what to do."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from reference_models.errors import UserError


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Convert a write error inside the context to an error that names the file; a full disk does not name it.

    Args:
        path: The file or folder to write.

    Yields:
        None; write the file inside the context.

    Raises:
        UserError: If the file cannot be written, for example because the disk is full or read-only.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
        file = getattr(error, "filename", None) or path
        reason = getattr(error, "strerror", None) or _line(error)
        raise UserError(
            f"{file}: cannot be written ({reason}); free disk space or choose a writable folder, and run the command "
            "again"
        ) from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: `write` fills a temporary file next to `path`, which is then renamed.

    Args:
        path: Path of the file.
        write: Function that writes to the path it is given.

    Raises:
        UserError: If the file cannot be written.
    """
    part = path.with_name(f"{path.stem}.part")  # a fixed name, because torch writes it into its files
    with writable(path):
        write(part)
        part.replace(path)


def write_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Write a new folder atomically: `fill` fills a temporary folder next to it, which is then renamed.

    Args:
        folder: Path of the folder. Its parent folders are created if they are missing.
        fill: Function that writes files to the existing folder it is given.

    Raises:
        UserError: If the folder cannot be written.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with writable(folder):
        partial.mkdir(parents=True)
        fill(partial)
        partial.rename(folder)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically.

    Args:
        path: Path of the file.
        text: Its content.

    Raises:
        UserError: If the file cannot be written.
    """
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


@contextmanager
def readable(path: Path, advice: str) -> Iterator[None]:
    """Convert a read error inside the context to an error that names the file.

    Args:
        path: The file or folder to read.
        advice: What to do if it is damaged, for the message.

    Yields:
        None; read the file inside the context.

    Raises:
        UserError: If the file is damaged or cannot be read.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise almost any exception
        raise UserError(f"{path} is damaged or cannot be read ({_line(error)}); {advice}") from error


def read_json(path: Path, advice: str) -> Any:
    """Return the content of a JSON file; for `advice` see `readable`."""
    with readable(path, advice):
        return json.loads(path.read_text(encoding="utf-8"))


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
