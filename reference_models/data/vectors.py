"""Word vectors in a text file as GloVe has them: a word and its numbers a line."""

from collections.abc import Collection
from pathlib import Path

from reference_models.errors import UserError


def read_vectors(path: str, words: Collection[str]) -> dict[str, list[float]]:
    """The vectors of some words.

    Args:
        path: of the file; "none" has no vectors.
        words: in lower case.

    Returns:
        The vectors of those words that the file has.

    Raises:
        UserError: the file cannot be read, a line is no word with numbers, or vectors differ in length.
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
                    raise UserError(f"{path}:{number}: expected {width} numbers, as before, got {len(numbers)}")
                width = len(numbers)
                if word in words:
                    vectors[word] = [float(value) for value in numbers]
    except OSError as error:
        raise UserError(f"model.word_vectors: {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}:{number}: expected a word and numbers, divided by spaces ({error})") from error
    return vectors
