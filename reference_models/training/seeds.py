"""Training with several seeds: one run per seed, and mean and standard deviation of the scores."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from accelerate import PartialState

from reference_models.config import RunConfig
from reference_models.errors import UserError
from reference_models.training.folder import write_json
from reference_models.training.run import train

SUMMARY = "summary.json"


def train_seeds(config: RunConfig, seeds: Sequence[int], *, label: str | None = None) -> dict[str, Any]:
    """Train one run per seed in `config.output/seed-N`; finished runs are not trained again.

    Args:
        config: Settings of the runs.
        seeds: One seed per run.
        label: Name of the runs, see `train`; the seed is added to it.

    Returns:
        The content of `summary.json` in `config.output`: `seeds`, `labels_fingerprint`, and `scores` of valid and test,
        each with {"mean", "deviation", "values"}. "deviation" is the sample standard deviation, None for a single seed.

    Raises:
        UserError: As in `train`; also if a finished run has other settings or data, `seeds` is empty, or a seed occurs
            twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"expected one or more different seeds, got {list(seeds)}")
    output = Path(config.output)
    runs = [  # all of them before the first training, because this checks the seeds
        replace(config, output=str(output / f"seed-{seed}"), training=replace(config.training, seed=seed))
        for seed in seeds
    ]
    results = []
    for seed, run in zip(seeds, runs, strict=True):
        name = None if label is None else f"{label}, seed {seed}"
        results.append(train(run, skip_finished=True, label=name))
    scores = {
        split: {name: _mean_and_deviation([result[split][name] for result in results]) for name in results[0]["test"]}
        for split in ("valid", "test")
    }
    summary = {"seeds": list(seeds), "scores": scores, "labels_fingerprint": results[0]["labels_fingerprint"]}
    if PartialState().is_main_process:
        write_json(output / SUMMARY, summary)
    return summary


def percent(score: Mapping[str, Any]) -> str:
    """Format a score of `train_seeds` in percent: its mean, and its deviation if there are several seeds."""
    average = f"{100 * score['mean']:.2f}"
    return average if score["deviation"] is None else f"{average} ± {100 * score['deviation']:.2f}"


def _mean_and_deviation(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": mean(values), "deviation": stdev(values) if len(values) > 1 else None, "values": list(values)}
