"""Prediction for one file of posts; an interrupted call can be resumed."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from reference_models.errors import UserError
from reference_models.prediction import Predictor
from reference_models.training.folder import write_json


class TakenError(UserError):
    """Another process is writing the file."""


def predict_file(predictor: Predictor, posts: Path, output: Path) -> dict[str, int]:
    """Predict a file of posts, one JSON object per line, and write the records to a file in the same order.

    Records are written to `output.partial`, which is renamed to `output` at the end. The same call resumes an
    interrupted one. `output.partial.json` stores the model and the posts, so that a call with another model or other
    posts does not resume it.

    Returns:
        See `write_records`.

    Raises:
        UserError: If `posts` cannot be read, `output` already exists or cannot be written, its unfinished records
            belong to another call, or another process is writing them.
    """
    with locked(output):
        if output.exists():
            raise UserError(f"{output} already exists; choose another file with --output")
        facts = {"input": digest_of(posts), **predictor.facts()}
        return write_records(predictor, posts, output, facts, note=lambda counts: None)


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Lock `output` against other processes; OS errors inside the block become a `UserError` that names the file.

    Raises:
        TakenError: If another process is writing the file.
        UserError: If the file cannot be written.
    """
    lock = FileLock(_beside(output, ".lock"), timeout=0)
    try:
        with lock:
            yield
            Path(lock.lock_file).unlink()
    except Timeout as error:
        raise TakenError(f"another process is writing {output}; wait for it, or choose another --output") from error
    except OSError as error:
        where = error.filename or _beside(output, ".partial")
        raise UserError(f"{where}: cannot be written ({error.strerror or error})") from error


def write_records(
    predictor: Predictor,
    posts: Path,
    output: Path,
    facts: dict[str, Any],
    *,
    note: Callable[[dict[str, int]], object],
    progress: bool = True,
) -> dict[str, int]:
    """Predict the posts that are missing in `output.partial`, then rename it to `output`; see `predict_file`.

    Args:
        predictor: Makes the records.
        posts: File of posts.
        output: File of records, locked by the caller.
        facts: What the records depend on, see `Predictor.facts`.
        note: Called with the counts before the file is renamed.
        progress: Show a progress bar.

    Returns:
        Counts: `lines` in the file, `errors` (records with an error), `cut` (posts cut by the length limit) and `done`
        (records of an earlier call).

    Raises:
        UserError: If the unfinished records belong to another call.
    """
    partial, described = _beside(output, ".partial"), _beside(output, ".partial.json")
    _check_facts(partial, described, facts)
    kept = _whole_lines(partial)
    errors, cut = (sum(key in record for record in kept) for key in ("error", "words_cut"))
    total = len(kept)
    with partial.open("a", encoding="utf-8") as file:
        rest = itertools.islice(_lines(posts), total, None)
        records = predictor.records(rest, posts.parent, first=total + 1)
        for record in tqdm(records, desc="posts", initial=total, disable=not progress):
            file.write(json.dumps(record) + "\n")
            file.flush()
            total, errors, cut = total + 1, errors + ("error" in record), cut + ("words_cut" in record)
    counts = {"lines": total, "errors": errors, "cut": cut, "done": len(kept)}
    note(counts)
    partial.replace(output)
    described.unlink()
    return counts


def _beside(output: Path, suffix: str) -> Path:
    return output.with_name(f"{output.name}{suffix}")


def _check_facts(partial: Path, facts: Path, now: dict[str, Any]) -> None:
    """Check that unfinished records have the same facts as this call; if there are none, write the facts."""
    if not partial.exists():
        write_json(facts, now)
        return
    try:
        before = json.loads(facts.read_text())
    except (OSError, ValueError):
        before = {}
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        what = ", ".join(f"{key} was {before.get(key, 'unknown')} and is now {now[key]}" for key in changed)
        raise UserError(
            f"{partial} holds unfinished records of another call: {what}; delete it, or choose another file with "
            "--output"
        )


def _lines(posts: Path) -> Iterator[bytes]:
    try:
        with posts.open("rb") as file:
            yield from file
    except OSError as error:
        raise UserError(f"{posts}: cannot be read ({error.strerror})") from error


def digest_of(posts: Path) -> str:
    """Return the fingerprint of a file of posts, 12 hexadecimal digits.

    Raises:
        UserError: If the file cannot be read.
    """
    digest = hashlib.sha256()
    for line in _lines(posts):
        digest.update(line)
    return digest.hexdigest()[:12]


def _whole_lines(partial: Path) -> list[dict[str, Any]]:
    """Read the records of an unfinished file, and remove a truncated last line from it.

    Raises:
        UserError: If a line is not a record.
    """
    if not partial.exists():
        return []
    content = partial.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        partial.write_bytes(whole)
    records = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{partial}:{number}: expected a record, got {line[:60]!r}; delete the file") from error
    return records
