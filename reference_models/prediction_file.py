"""Prediction for a file of posts into a file of records, which a stop leaves to be continued."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from reference_models.errors import UserError
from reference_models.prediction import Predictor
from reference_models.training.folder import write_json


def predict_file(predictor: Predictor, posts: Path, output: Path) -> dict[str, int]:
    """Predict a file of posts, one JSON object a line, into a file of records in the same order.

    Records are written to `output.partial`, which becomes `output` at the end; the same call resumes an interrupted
    one. What they were made from is in `output.partial.json`, so that no other model and no other posts continue it.

    Returns:
        How many `lines` there were, how many of them gave an `errors` record, how many posts were `cut` by the length
        limit, and how many were `done` before.

    Raises:
        UserError: `posts` cannot be read, `output` cannot be written or exists already, its unfinished records are of
            another call, or another process is writing them.
    """
    lock = FileLock(_beside(output, ".lock"), timeout=0)
    try:
        with lock:
            counts = _predict_file(predictor, posts, output)
            Path(lock.lock_file).unlink()
    except Timeout as error:
        raise UserError(f"another process is writing {output}; wait for it, or name another --output") from error
    except OSError as error:
        where = error.filename or _beside(output, ".partial")
        raise UserError(f"{where}: cannot be written ({error.strerror or error})") from error
    return counts


def _predict_file(predictor: Predictor, posts: Path, output: Path) -> dict[str, int]:
    if output.exists():
        raise UserError(f"{output} exists already; name another file with --output")
    partial, facts = _beside(output, ".partial"), _beside(output, ".partial.json")
    _check_facts(partial, facts, {"input": _digest(posts), **predictor.facts()})
    kept = _whole_lines(partial)
    errors, cut = (sum(key in record for record in kept) for key in ("error", "words_cut"))
    total = len(kept)
    with partial.open("a", encoding="utf-8") as file:
        rest = itertools.islice(_lines(posts), total, None)
        for record in tqdm(predictor.records(rest, posts.parent, first=total + 1), desc="posts", initial=total):
            file.write(json.dumps(record) + "\n")
            file.flush()
            total, errors, cut = total + 1, errors + ("error" in record), cut + ("words_cut" in record)
    partial.replace(output)
    facts.unlink()
    return {"lines": total, "errors": errors, "cut": cut, "done": len(kept)}


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


def _digest(posts: Path) -> str:
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
