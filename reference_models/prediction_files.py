"""Prediction for many files of posts by several processes, which coordinate through the output folder."""

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
    """Work that the processes share.

    Attributes:
        model: See `Predictor`, also for `int8`, `fast_float32` and `onnx`.
        inputs: Files of posts with distinct names.
        output: Folder for the files of records, which have the names of the input files.
        grounding: Settings to find crops for images without crops; None finds none.
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
    """Summary of a call of `predict_files`.

    Attributes:
        predicted: Number of posts that the call predicted.
        seconds: Duration of the call in seconds.
        finished: Counts and seconds of each finished file, including files that other calls predicted.
        elsewhere: Files that other processes are writing.
        failed: Reason of the failure, for each file that failed.
    """

    predicted: int
    seconds: float
    finished: dict[Path, dict[str, Any]]
    elsewhere: Sequence[Path]
    failed: dict[Path, str]

    def __str__(self) -> str:
        """Return the summary as text."""
        lines, errors, cut = (sum(entry[key] for entry in self.finished.values()) for key in COUNTS)
        files = len(self.finished) + len(self.elsewhere) + len(self.failed)
        messages = [
            f"{len(self.finished)} of {files} files are finished: {lines} posts, {errors} of them with an error, {cut} "
            "longer than the length limit"
        ]
        if self.predicted:
            hours = 1e6 / self.predicted * self.seconds / 3600
            messages.append(
                f"{self.predicted} of them were predicted now, in {self.seconds:.0f} s; at this rate a million posts "
                f"take {hours:.1f} hours"
            )
        messages += [f"{path}: another process is writing its records" for path in self.elsewhere]
        return "\n".join([*messages, *(f"{path}: failed: {reason}" for path, reason in self.failed.items())])


def predict_files(work: Work, jobs: int) -> Summary:
    """Predict files of posts, and write the records to files of the same names in the output folder.

    Each process takes the next file that is neither finished nor being written by another process. The same call on
    another machine with the same output folder therefore shares the work. After an interruption, the same call resumes.
    `manifest.json` in the output folder stores the model, the posts, the counts and the seconds of each finished file.

    Args:
        work: The work to do.
        jobs: Number of processes; each gets an equal share of the threads.

    Returns:
        A summary of this call.

    Raises:
        UserError: If two inputs have the same name, an input does not exist or is in the output folder, `jobs` is less
            than 1, the folder cannot be written, or the model cannot be used. The failure of a single file is reported
            in the summary and does not stop the others.
    """
    if jobs < 1:
        raise UserError(f"--jobs must be 1 or more, got {jobs}")
    names: dict[str, Path] = {}
    for path in work.inputs:
        if not path.is_file():
            raise UserError(f"{path}: the file does not exist")
        if path.name == MANIFEST:
            raise UserError(f"{path}: the name {MANIFEST} is reserved for the summary of all files; rename the file")
        if path.resolve().parent == work.output.resolve():
            raise UserError(f"{path} is in {work.output}, and its records would have its name; choose another --output")
        if path.name in names:
            raise UserError(
                f"{names[path.name]} and {path} have the same name, so their records would too; rename one, or choose "
                "different output folders"
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
            )  # another call may have finished it with another model
            finished[path] = manifest[path.name]
        except UserError as error:
            failed[path] = str(error)
    return Summary(predicted, time.perf_counter() - start, finished, elsewhere, failed)


def _work_through(_: int, work: Work) -> tuple[int, dict[Path, str], dict[str, Any]]:
    """Predict the remaining files in one process; returns the number of posts, the failures and the model's facts."""
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
            with locked(output):  # taken before reading, so that a file of another process is skipped at once
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
    """Add a file to the manifest, under a lock because other processes write it too."""
    entry = {**{key: counts[key] for key in COUNTS}, "seconds": time.perf_counter() - start, **facts}
    with FileLock(output.parent / f"{MANIFEST}.lock"):
        write_json(output.parent / MANIFEST, _read_manifest(output.parent) | {output.name: entry})


def _check_finished(output: Path, entry: dict[str, Any], facts: dict[str, Any]) -> None:
    if changed := [key for key, value in facts.items() if entry.get(key) != value]:
        raise UserError(f"{output} holds records of another call ({changed[0]} differs); delete it")
