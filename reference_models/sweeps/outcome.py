"""State and scores of a cell, read from its run directories."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Literal

from reference_models.files import read_json
from reference_models.sweeps.cells import Cell
from reference_models.training.folder import METRICS, START, start_of


@dataclass(frozen=True)
class Outcome:
    """State and results of a cell.

    Attributes:
        state: "missing" (not started), "partial" (not all seeds finished), "finished", "failed", or "other settings"
            (the folder contains runs of another sweep).
        values: If finished, the test scores (percent) by name, one value per seed.
        fingerprint: If finished, the fingerprint of the label files.
        reason: If failed, the error message.
        parameters: If finished, the number of parameters of the model, including the image backbone and both modules; 0
            if the runs did not record it.
        epoch_seconds: If finished, the seconds per training epoch, averaged over the seeds; 0 if not recorded.
    """

    state: Literal["missing", "partial", "finished", "failed", "other settings"]
    values: dict[str, list[float]] = field(default_factory=dict)
    fingerprint: str = ""
    reason: str = ""
    parameters: int = 0
    epoch_seconds: float = 0.0


def read_outcome(cell: Cell, seeds: Sequence[int], scores: Sequence[str]) -> Outcome:
    """Read the state and scores of a cell; nothing is trained."""
    runs = [Path(cell.config.output) / f"seed-{seed}" for seed in seeds]
    wanted = start_of(cell.config)
    del wanted["training.seed"]
    advice = "delete this run directory, and the sweep trains it again"
    starts = [read_json(run / START, advice) for run in runs if (run / START).is_file()]
    if any(not wanted.items() <= start.items() for start in starts):
        return Outcome("other settings")
    metrics = [read_json(run / METRICS, advice) for run in runs if (run / METRICS).is_file()]
    if len(metrics) < len(seeds):
        return Outcome("partial" if starts else "missing")
    values = {score: [100 * each["test"][score] for each in metrics] for score in scores}
    parameters, epoch_seconds = 0, 0.0
    if all("parameters" in each for each in metrics):
        parameters = metrics[0]["parameters"]
        epoch_seconds = mean(each["seconds"] / each["epochs"] for each in metrics)
    prints = metrics[0]["labels_fingerprint"]
    return Outcome("finished", values, prints, parameters=parameters, epoch_seconds=epoch_seconds)
