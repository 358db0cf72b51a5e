"""Prediction for a file of posts into a file of records, which a stop leaves to be continued."""

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
    """Predict a file of posts, one JSON object a line, into a file of records in the same order.

    Records are written to `output.partial`, which becomes `output` at the end; the same call resumes an interrupted
    one. What they were made from is in `output.partial.json`, so that no other model and no other posts continue it.

    Returns:
        See `write_records`.

    Raises:
        UserError: `posts` cannot be read, `output` cannot be written or exists already, its unfinished records are of
            another call, or another process is writing them.
    """
    with locked(output):
        if output.exists():
            raise UserError(f"{output} exists already; name another file with --output")
        facts = {"input": digest_of(posts), **predictor.facts()}
        return write_records(predictor, posts, output, facts, note=lambda counts: None)


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other processes from writing `output`; what goes wrong with the disk inside is said with the file's name.

    Raises:
        TakenError: another process is writing it.
        UserError: it cannot be written.
    """
    lock = FileLock(_beside(output, ".lock"), timeout=0)
    try:
        with lock:
            yield
            Path(lock.lock_file).unlink()
    except Timeout as error:
        raise TakenError(f"another process is writing {output}; wait for it, or name another --output") from error
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
    """Predict what `output.partial` lacks, and give it its name; see `predict_file`.

    Args:
        predictor: of the records.
        posts: file of posts.
        output: file of records, locked by the caller.
        facts: what the records are made from.
        note: is given the counts before the file has its name.
        progress: show a progress bar.

    Returns:
        How many `lines` there were, how many of them gave an `errors` record, how many posts were `cut` by the length
        limit, and how many were `done` before.

    Raises:
        UserError: unfinished records of another call.
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
    """Check that unfinished records, if there are any, were made from the same; if there are none, write down what."""
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
            f"{partial} holds the unfinished records of another call: {what}; delete it, or name another file with "
            "--output"
        )


def _lines(posts: Path) -> Iterator[bytes]:
    try:
        with posts.open("rb") as file:
            yield from file
    except OSError as error:
        raise UserError(f"{posts}: cannot be read ({error.strerror})") from error


def digest_of(posts: Path) -> str:
    """What tells a file of posts from another, 12 hexadecimal digits.

    Raises:
        UserError: it cannot be read.
    """
    digest = hashlib.sha256()
    for line in _lines(posts):
        digest.update(line)
    return digest.hexdigest()[:12]


def _whole_lines(partial: Path) -> list[dict[str, Any]]:
    """The records of an unfinished file; one that a stop cut short is removed from it.

    Raises:
        UserError: a line is no record.
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
