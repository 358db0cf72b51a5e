"""What the folders of a cell's runs say: how far it is, and its scores."""

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
    """How far a cell is.

    Attributes:
        state: "missing" (not begun), "partial" (not every seed is finished), "finished", "failed", or "other settings"
            (its folder holds runs of another sweep).
        values: of a finished cell, each score of the test split (percent), seed by seed.
        fingerprint: of a finished cell, that of the label files.
        reason: of a failed cell, why.
        parameters: of a finished cell, numbers that its model has, the image backbone and both modules included; 0
            where the runs do not say.
        epoch_seconds: of a finished cell, seconds of an epoch of training, a mean over the seeds; 0 likewise.
    """

    state: Literal["missing", "partial", "finished", "failed", "other settings"]
    values: dict[str, list[float]] = field(default_factory=dict)
    fingerprint: str = ""
    reason: str = ""
    parameters: int = 0
    epoch_seconds: float = 0.0


def read_outcome(cell: Cell, seeds: Sequence[int], scores: Sequence[str]) -> Outcome:
    """How far the runs of a cell are; nothing is trained."""
    runs = [Path(cell.config.output) / f"seed-{seed}" for seed in seeds]
    wanted = start_of(cell.config)
    del wanted["training.seed"]
    advice = "delete the folder of this run, and the sweep trains it again"
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
