"""One configuration with several seeds: a run each, and the mean and standard deviation of their scores."""

from collections.abc import Sequence
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
    """Train a run for each seed in `config.output/seed-N`; one that is finished already is not trained again.

    Args:
        config: the settings.
        seeds: of the runs.
        label: name of the runs, see `train`; the seed is added.

    Returns:
        What `summary.json` in `config.output` holds: `seeds`, the labels' fingerprint, and `scores` of valid and
        test: for each {"mean", "spread", "values"}. The spread is the sample standard deviation, None for one
        seed.

    Raises:
        UserError: as `train`; a finished run of other settings or data; no seed, or one twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"expected different seeds, one or more, got {list(seeds)}")
    output = Path(config.output)
    results = []
    for seed in seeds:
        one = replace(config, output=str(output / f"seed-{seed}"), training=replace(config.training, seed=seed))
        name = None if label is None else f"{label}, seed {seed}"
        results.append(train(one, skip_finished=True, label=name))
    scores = {
        split: {name: _spread([result[split][name] for result in results]) for name in results[0]["test"]}
        for split in ("valid", "test")
    }
    summary = {"seeds": list(seeds), "scores": scores, "labels_fingerprint": results[0]["labels_fingerprint"]}
    if PartialState().is_main_process:
        write_json(output / SUMMARY, summary)
    return summary


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": mean(values), "spread": stdev(values) if len(values) > 1 else None, "values": list(values)}
