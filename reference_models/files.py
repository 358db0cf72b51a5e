"""Files that cannot be read or written: one message with the file's own name and what to do."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from reference_models.errors import UserError


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Give an error of the writing inside the name of its file, which a full disk does not say.

    Args:
        path: the file or folder that is written.

    Raises:
        UserError: it cannot be written: a full or read-only disk, say.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save has a RuntimeError for a full disk
        file = getattr(error, "filename", None) or path
        reason = getattr(error, "strerror", None) or _line(error)
        raise UserError(
            f"{file}: cannot be written ({reason}); make room or choose a folder that can be written, and give the "
            "command again"
        ) from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path` and move it there in one step, so that no half of it is ever seen.

    Args:
        path: of the file.
        write: is given the path to write to.

    Raises:
        UserError: it cannot be written.
    """
    part = path.with_name(f"{path.stem}.part")  # a fixed name, because torch writes it into its files
    with writable(path):
        write(part)
        part.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file that appears whole or not at all.

    Args:
        path: of the file.
        text: that it is to hold.

    Raises:
        UserError: it cannot be written.
    """
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


@contextmanager
def readable(path: Path, advice: str) -> Iterator[None]:
    """Give an error of the reading inside the name of its file.

    Args:
        path: the file or folder that is read.
        advice: what to do where it is damaged.

    Raises:
        UserError: it is damaged, or cannot be read.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail with almost any exception
        raise UserError(f"{path} is damaged or cannot be read ({_line(error)}); {advice}") from error


def read_json(path: Path, advice: str) -> Any:
    """What a JSON file holds; `advice` as for `readable`."""
    with readable(path, advice):
        return json.loads(path.read_text(encoding="utf-8"))


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
