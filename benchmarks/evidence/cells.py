"""Cells on disk: one JSON file for each data set, arm, learning rate and seed, written atomically."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.evidence.arms import full_options, partners_need_classes
from benchmarks.evidence.config import Config, DataSet
from benchmarks.evidence.pool import load_pool
from benchmarks.evidence.readers import TAGGED
from benchmarks.evidence.training import train_cell

Cell = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """All cells of one data set and arm, for which one learning rate is chosen."""

    data_set: DataSet
    arm: str
    options: dict[str, Any] | None
    encoder: str
    fine_tuned: bool

    def path(self, folder: Path, rate: float, seed: int) -> Path:
        """Return the file of a cell."""
        return folder / "cells" / self.data_set.name / self.arm.replace("/", "-") / f"{rate:g}-{seed}.json"

    def key(self) -> str:
        """Return the hash of the settings with which a finished cell must have been trained."""
        training = asdict(self.data_set.training)
        for name in ("learning_rates", "choice_seeds", "seeds"):
            del training[name]
        options = full_options(self.options, self.data_set.training.hidden)
        settings = [self.data_set.source, self.data_set.subset, training, options, self.encoder, self.fine_tuned]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def units_of(config: Config) -> list[Unit]:
    """Return the units in the order of the data sets.

    Arms that choose partners by class are left out for data sets whose rows have several classes.
    """
    return [
        Unit(data_set, arm, options, config.encoder, config.fine_tuned)
        for data_set in config.data_sets
        for arm, options in config.arms.items()
        if not (data_set.source in TAGGED and partners_need_classes(options))
    ]


def read_cell(unit: Unit, folder: Path, rate: float, seed: int) -> Cell | None:
    """Return a finished cell; None if there is none, or if its settings differ."""
    try:
        cell: Cell = json.loads(unit.path(folder, rate, seed).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return cell if cell.get("key") == unit.key() else None


def write_cell(path: Path, cell: Cell) -> None:
    """Write a cell under another name and rename it, so that an interrupted run leaves no partial cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(cell))
    partial.replace(path)


def chosen_rate(unit: Unit, cell_of: Callable[[float, int], Cell | None]) -> float | None:
    """Return the learning rate with the best mean validation score over the choice seeds; None if a cell is missing."""
    training = unit.data_set.training
    scores = {}
    for rate in training.learning_rates:
        cells = [cell_of(rate, seed) for seed in range(training.choice_seeds)]
        if any(cell is None for cell in cells):
            return None
        scores[rate] = mean(cell["valid"] for cell in cells if cell is not None)
    return max(scores, key=scores.__getitem__)


def finished_cells(unit: Unit, folder: Path) -> dict[int, Cell]:
    """Return the finished cells of the chosen learning rate by seed."""
    rate = chosen_rate(unit, lambda rate, seed: read_cell(unit, folder, rate, seed))
    if rate is None:
        return {}
    seeds = range(unit.data_set.training.seeds)
    return {seed: cell for seed in seeds if (cell := read_cell(unit, folder, rate, seed)) is not None}


def run_unit(unit: Unit, data: Path, folder: Path) -> int:
    """Train the cells of a unit that are unfinished or were trained on other data or weights; return their number."""
    torch.set_num_threads(1)
    training, trained = unit.data_set.training, 0
    pool = load_pool(unit.data_set.source, unit.encoder, unit.fine_tuned, data, folder / "features")
    inputs = {"data": pool.fingerprint, "encoder": pool.encoder_fingerprint}

    def cell_of(rate: float, seed: int) -> Cell:
        nonlocal trained
        cell = read_cell(unit, folder, rate, seed)
        if cell is None or any(cell.get(name) != value for name, value in inputs.items()):
            result = train_cell(pool, unit.data_set.subset, training, unit.options, rate, seed)
            cell = {
                "key": unit.key(),
                "data_set": unit.data_set.name,
                "arm": unit.arm,
                "learning_rate": rate,
                "seed": seed,
                **inputs,
                "versions": {name: version(name) for name in ("attnmixup", "torch", "scikit-learn")},
                **result,
            }
            write_cell(unit.path(folder, rate, seed), cell)
            trained += 1
        return cell

    rate = chosen_rate(unit, cell_of)
    for seed in range(training.seeds):
        if rate is not None:
            cell_of(rate, seed)
    return trained
