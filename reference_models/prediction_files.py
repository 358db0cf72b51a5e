"""Prediction for many files of posts, by processes that share the work through the folder they write to."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from reference_models.config.grounding import GroundingConfig
from reference_models.errors import UserError
from reference_models.files import read_json, writable
from reference_models.grounding.posts import PostGrounder
from reference_models.jobs import result_of, run_jobs
from reference_models.prediction import Predictor
from reference_models.prediction_file import TakenError, digest_of, locked, write_records
from reference_models.training.folder import write_json

MANIFEST = "manifest.json"
COUNTS = ("lines", "errors", "cut")


@dataclass(frozen=True)
class Work:
    """What every process is told.

    Attributes:
        model: see `Predictor`; so are `int8`, `fast_float32` and `onnx`.
        inputs: files of posts, with different names.
        output: folder for the files of records, which are named as the posts' are.
        grounding: how crops are found for images that have none; None leaves them without.
    """

    model: Path | str
    inputs: Sequence[Path]
    output: Path
    int8: bool = False
    fast_float32: bool = False
    onnx: Path | None = None
    grounding: GroundingConfig | None = None


@dataclass(frozen=True)
class Summary:
    """What a call of `predict_files` did.

    Attributes:
        predicted: posts that it predicted.
        seconds: that it took.
        finished: counts and seconds of the finished files, by file, whichever process predicted them.
        elsewhere: files that other processes are writing.
        failed: why a file could not be predicted, by file.
    """

    predicted: int
    seconds: float
    finished: dict[Path, dict[str, Any]]
    elsewhere: Sequence[Path]
    failed: dict[Path, str]

    def __str__(self) -> str:
        """The summary in words."""
        lines, errors, cut = (sum(entry[key] for entry in self.finished.values()) for key in COUNTS)
        files = len(self.finished) + len(self.elsewhere) + len(self.failed)
        told = [
            f"{len(self.finished)} of {files} files are finished: {lines} posts, {errors} of them with an error, {cut} "
            "longer than the length limit"
        ]
        if self.predicted:
            hours = 1e6 / self.predicted * self.seconds / 3600
            told.append(
                f"{self.predicted} of them were predicted now, in {self.seconds:.0f} s; at this rate a million posts "
                f"take {hours:.1f} hours"
            )
        told += [f"{path}: another process is writing its records" for path in self.elsewhere]
        return "\n".join([*told, *(f"{path}: failed: {reason}" for path, reason in self.failed.items())])


def predict_files(work: Work, jobs: int) -> Summary:
    """Predict files of posts into files of records of the same names.

    Each process takes the next file that nobody is writing and that is not finished, so that the same call on another
    machine, with the same folder, helps. A call after a stop goes on where the files were left. `manifest.json` in the
    folder says of each finished file what it was made from, its counts and its seconds.

    Args:
        work: what to do.
        jobs: processes, each with an equal share of the threads.

    Returns:
        What this call did.

    Raises:
        UserError: two inputs of one name, one that does not exist or is in the output's folder, `jobs` less than 1, a
            folder that cannot be written, or a model that cannot be used. What is wrong with a single file is in the
            summary, and does not stop the others.
    """
    if jobs < 1:
        raise UserError(f"--jobs must be 1 or more, got {jobs}")
    names: dict[str, Path] = {}
    for path in work.inputs:
        if not path.is_file():
            raise UserError(f"{path}: there is no such file")
        if path.name == MANIFEST:
            raise UserError(f"{path}: {MANIFEST} is the name of what is said about all files; rename it")
        if path.resolve().parent == work.output.resolve():
            raise UserError(f"{path} is in {work.output}, where its records would have its name; name another --output")
        if path.name in names:
            raise UserError(
                f"{names[path.name]} and {path} have one name, and so would their records; rename one, or predict them "
                "into different folders"
            )
        names[path.name] = path
    start = time.perf_counter()
    with writable(work.output):
        work.output.mkdir(parents=True, exist_ok=True)
    predicted, failed, model = 0, dict[Path, str](), dict[str, Any]()
    for _, call in run_jobs(partial(_work_through, work=work), range(min(jobs, len(work.inputs))), jobs):
        number, reasons, model = result_of(call)
        predicted += number
        failed |= reasons
    manifest = _read_manifest(work.output)
    finished, elsewhere = {}, []
    for path in work.inputs:
        if path in failed:
            continue
        if path.name not in manifest or not (work.output / path.name).exists():
            elsewhere.append(path)
            continue
        try:
            _check_finished(
                work.output / path.name, manifest[path.name], model
            )  # another call may have finished it by another model
            finished[path] = manifest[path.name]
        except UserError as error:
            failed[path] = str(error)
    return Summary(predicted, time.perf_counter() - start, finished, elsewhere, failed)


def _work_through(_: int, work: Work) -> tuple[int, dict[Path, str], dict[str, Any]]:
    """Predict, in a process of its own, what is left; how many posts, why a file failed, and what the model is."""
    predictor = Predictor(work.model, int8=work.int8, fast_float32=work.fast_float32, onnx=work.onnx)
    if work.grounding is not None:
        predictor.ground = PostGrounder(predictor.processor.task.pairs, work.grounding, work.output)
    model = predictor.facts()
    predicted, failed = 0, dict[Path, str]()
    for posts in work.inputs:
        output = work.output / posts.name
        if isinstance(predictor.ground, PostGrounder):
            predictor.ground.folder = output.with_name(f"{output.name}.crops")
        try:
            with locked(output):  # a file that another process has is not even read
                facts = {"input": digest_of(posts), **model}
                if output.exists():
                    _check_finished(output, _read_manifest(work.output).get(output.name, {}), facts)
                    continue
                note = partial(_note, output, facts, time.perf_counter())
                counts = write_records(predictor, posts, output, facts, note=note, progress=False)
        except TakenError:
            continue
        except UserError as error:
            failed[posts] = str(error)
            continue
        predicted += counts["lines"] - counts["done"]
        print(f"{output}: {counts['lines']} posts, {counts['errors']} of them with an error", flush=True)
    return predicted, failed, model


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    entries: dict[str, dict[str, Any]] = {}
    if path.exists():
        entries = read_json(path, "delete it and the records in its folder")
    return entries


def _note(output: Path, facts: dict[str, Any], start: float, counts: dict[str, int]) -> None:
    """Add a file to the manifest, which other processes write too."""
    entry = {**{key: counts[key] for key in COUNTS}, "seconds": time.perf_counter() - start, **facts}
    with FileLock(output.parent / f"{MANIFEST}.lock"):
        write_json(output.parent / MANIFEST, _read_manifest(output.parent) | {output.name: entry})


def _check_finished(output: Path, entry: dict[str, Any], facts: dict[str, Any]) -> None:
    if changed := [key for key, value in facts.items() if entry.get(key) != value]:
        raise UserError(f"{output} holds the records of another call ({changed[0]} was another); delete it")
