"""Word vectors from a text file in GloVe format: one word and its numbers per line."""

from collections.abc import Collection
from pathlib import Path

from reference_models.errors import UserError


def read_vectors(path: str, words: Collection[str]) -> dict[str, list[float]]:
    """Read the vectors of some words.

    Args:
        path: Path of the file, or "none" for no vectors.
        words: Lower-cased words.

    Returns:
        The vectors of those words that are in the file.

    Raises:
        UserError: If the file cannot be read, a line is not a word with numbers, or the vectors differ in length.
    """
    if path == "none":
        return {}
    vectors: dict[str, list[float]] = {}
    width = None
    try:
        with Path(path).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                word, *numbers = line.rstrip("\n").split(" ")
                if width is not None and len(numbers) != width:
                    raise UserError(
                        f"{path}:{number}: expected {width} numbers, as on the lines before, got {len(numbers)}"
                    )
                width = len(numbers)
                if word in words:
                    vectors[word] = [float(value) for value in numbers]
    except OSError as error:
        raise UserError(f"model.word_vectors: {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8; save the file as UTF-8") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}:{number}: expected a word and numbers, separated by spaces ({error})") from error
    return vectors
