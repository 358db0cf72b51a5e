"""`i2srm demo`: train a text-only model and I2SRM on a synthetic data set, and show what the images add."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from reference_models.data.samples import Sample, Split
from reference_models.data.synthetic import CEILING, KINDS, find_kind, generate_whole, kinds
from reference_models.errors import UserError
from reference_models.files import read_json, write_folder
from reference_models.jobs import result_of, run_jobs
from reference_models.settings import read_settings
from reference_models.tasks import Task, get_task
from reference_models.tasks.processor import Processor
from reference_models.training.figure import training_figure
from reference_models.training.folder import METRICS, write_json
from reference_models.training.run import HISTORY, MODEL, PREDICTIONS, train

SIZES: dict[Split, int] = {"valid": 300, "test": 1000}  # "train" comes from `Kind.demo_train`
QUICK: dict[Split, int] = {"train": 1500, "valid": 100, "test": 200}
DEMO = "demo.json"  # what must be equal to resume a demo
# Names of files in configs/systems, each with overrides for the demo.
MODELS: dict[str, list[str]] = {"text-only": [], "i2srm": ["--model.mixup.preset", "recommended"]}


@dataclass(frozen=True)
class Row:
    """Row of the demo's table; `several` is the F1 on test samples whose image shows several objects."""

    model: str
    precision: float
    recall: float
    f1: float
    several: float
    seconds: float


def run_demo(task: str | None, output: Path, *, seed: int = 0, quick: bool = False, jobs: int = 2) -> str:
    """Generate data, train and evaluate. All files stay in `output`. An interrupted demo resumes with the same call.

    Args:
        task: Name of a task; None for all tasks with a synthetic data set.
        output: New folder, or the folder of a demo with the same seed and sizes.
        seed: Seed of the data and the training.
        quick: Use less data and fewer epochs.
        jobs: Number of models to train in parallel, each in its own process.

    Returns:
        The tables and predictions to print.

    Raises:
        UserError: If `output` contains anything other than this demo, the task has no synthetic data set, or `jobs` is
            less than 1.
    """
    tasks = list(KINDS) if task is None else [task]
    find_kind(tasks[0])
    if jobs < 1:
        raise UserError(f"--jobs must be 1 or more, got {jobs}")
    _make_folder(output, {"seed": seed, "quick": quick})
    with FileLock(output / "lock"):  # the same demo, started twice, writes its data once
        ceilings = {name: _write_set(name, _data(output / name), seed, quick) for name in tasks}
    print(f"training {' and '.join(MODELS)} for {' and '.join(tasks)}, {jobs} at a time", flush=True)
    # The last one takes longest, so start it first.
    runs = [(name, model) for name in reversed(tasks) for model in reversed(list(MODELS))]
    for _, call in run_jobs(partial(_train, output=output, seed=seed, quick=quick), runs, jobs):
        result_of(call)
    reports = [_report(name, output / name, seed, ceilings[name]) for name in tasks]
    run = output / tasks[0] / "i2srm"
    where = (
        f"Models, scores, predictions and training.png of each task are in {output}/. Next, write a one-page report: "
        f"i2srm report {run}"
    )
    return "\n\n".join([*reports, where])


def _make_folder(output: Path, start: dict[str, Any]) -> None:
    """Create the folder of a demo atomically, or check that the existing one is of the same demo."""
    if not output.exists():
        write_folder(output, lambda folder: write_json(folder / DEMO, start))
        return
    if not (output / DEMO).is_file():
        raise UserError(f"the folder {output} already exists and contains no demo; choose another one with --output")
    before = read_json(output / DEMO, "choose another folder with --output")
    if before != start:
        raise UserError(
            f"the folder {output} contains a demo with {before}, expected {start}; repeat its command to resume it, or "
            "choose another folder with --output"
        )


def _write_set(task: str, root: Path, seed: int, quick: bool) -> float:
    """Write the data set of a task if it does not exist; return the text-only ceiling of its test split."""
    if not root.exists():
        print(f"writing the synthetic data set for {get_task(task).title} to {root.parent}", flush=True)
        sizes = QUICK if quick else {"train": find_kind(task).demo_train, **SIZES}
        generate_whole(root, task, seed, sizes)
    ceiling: float = read_json(root / CEILING, "delete the folder of the demo")["test"]
    return ceiling


def _data(folder: Path) -> Path:
    return folder / "data" / "posts"


def _train(run: tuple[str, str], output: Path, seed: int, quick: bool) -> None:
    """Train one model, given as task and system, in its own process."""
    # The operations are so small that threads mostly wait for each other; on a busy machine this is 100 times slower.
    torch.set_num_threads(1)
    name, model = run
    folder = output / name
    overrides = ["--data.root", str(_data(folder)), "--output", str(folder / model), "--training.seed", str(seed)]
    overrides += MODELS[model]
    if quick:
        overrides += ["--training.epochs", "3"]
    train(read_settings(f"synthetic-{name}", overrides, system=model), skip_finished=True, label=f"{model} for {name}")


def _report(name: str, folder: Path, seed: int, ceiling: float) -> str:
    """Return the results table of a task with example predictions; write its metrics and figure into `folder`."""
    kind_of = kinds(_data(folder), "test")
    rows, histories = [], {}
    for model in MODELS:
        run = folder / model
        metrics = json.loads((run / METRICS).read_text())
        task = Processor.from_pretrained(run / MODEL).task
        predictions = _read_predictions(run / PREDICTIONS)
        several = [row for row in predictions if kind_of[row["id"]] == "several"]
        several_f1 = task.score(*([row[side] for row in several] for side in ("true", "predicted")))["f1"]
        test = metrics["test"]
        rows.append(Row(model, test["precision"], test["recall"], test["f1"], several_f1, metrics["seconds"]))
        histories[model] = json.loads((run / HISTORY).read_text())
    training_figure(histories, folder / "training.png", ceiling)
    summary = {"ceiling": ceiling, "seed": seed, "models": {row.model: vars(row) for row in rows}}
    (folder / METRICS).write_text(json.dumps(summary, indent=1) + "\n")
    return "\n".join([_table(get_task(name).title, rows, ceiling), "", *_examples(task, predictions, kind_of)])


def _read_predictions(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _table(title: str, rows: Sequence[Row], ceiling: float) -> str:
    lines = [
        f"{title}, test split (percent)",
        f"{'model':<12}{'precision':>10}{'recall':>8}{'F1':>8}{'text-only ceiling':>19}{'F1, several objects':>21}",
    ]
    for row in rows:
        numbers = f"{100 * row.precision:>10.1f}{100 * row.recall:>8.1f}{100 * row.f1:>8.1f}"
        lines.append(f"{row.model:<12}{numbers}{100 * ceiling:>19.1f}{100 * row.several:>21.1f}")
    return "\n".join(lines)


def _examples(task: Task, predictions: Sequence[dict[str, Any]], kind_of: dict[str, str]) -> list[str]:
    lines = ["three predictions of i2srm on test samples with several objects:"]
    for row in [row for row in predictions if kind_of[row["id"]] == "several"][:3]:
        head, tail = (tuple(row[name]) if name in row else None for name in ("head", "tail"))
        sample = Sample(row["id"], tuple(row["words"]), head=head, tail=tail)
        verdict = "right" if row["predicted"] == row["true"] else f"wrong, it is {task.describe(sample, row['true'])}"
        lines += [
            f"  {' '.join(sample.words)}",
            f"    {task.describe(sample, row['predicted'])}  ({verdict})",
            f"    {os.path.relpath(row['image'])}",
        ]
    return lines
