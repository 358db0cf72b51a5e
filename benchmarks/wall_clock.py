"""The wall clock of whole runs on a set as large as MNRE, from the command to the final scores, by phase.

Each run is a process of its own, with a frozen image backbone: the first fills an empty feature cache, the second reads
it; with --without-cache one comes before them that decodes and computes each image for each batch.
The set is a synthetic one whose images have 224 pixels, one a sample; FOLDER keeps it for the next call.

python -m benchmarks.wall_clock FOLDER [--rows 12247] [--without-cache] [SETTING of `i2srm train` ...]
"""

import argparse
import shutil
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.timing import seconds
from reference_models.data.formats import get_format
from reference_models.data.synthetic import SIZES, generate
from reference_models.files import read_json
from reference_models.training.folder import METRICS
from reference_models.training.run import HISTORY

SIDE = 224
OUTSIDE = "starting Python, and the rest"


def write_set(root: Path, rows: int) -> None:
    """A synthetic set of relations, its images and crops enlarged so that they are as slow to decode as real ones.

    It appears whole or not at all.
    """
    partial_root = root.with_name(f"{root.name}.partial")
    shutil.rmtree(partial_root, ignore_errors=True)
    generate(partial_root, "re", seed=0, sizes=SIZES | {"train": rows})
    for split in SIZES:
        place = get_format("mnre").layout(partial_root, split)
        for path in [*place.images.iterdir(), *place.crops.iterdir()]:
            Image.open(path).resize((SIDE, SIDE)).save(path)
    partial_root.rename(root)


def run(root: Path, output: Path, settings: list[str]) -> dict[str, Any]:
    """Train by the command in a new process; the metrics of the run, its history, and its whole wall clock."""
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "reference_models", "train", "mnre", "i2srm", "--output", str(output)]
    command += ["--data.root", str(root), "--model.freeze_image_backbone", "true", *settings]
    whole = seconds(partial(subprocess.run, command, check=True))
    metrics: dict[str, Any] = read_json(output / METRICS, "")
    return metrics | {"history": read_json(output / HISTORY, ""), "whole": whole}


def step_seconds(history: list[dict[str, float]]) -> float:
    """Seconds of the steps alone: those of training without validation, saving, and waiting for batches."""
    total = 0.0
    for last, entry in pairwise([{"seconds": 0.0}, *history]):
        if "loss" in entry:  # an entry of training; those between are of validation
            total += (entry["seconds"] - last["seconds"]) * (1 - entry["waited"])
    return total


def table(runs: dict[str, dict[str, Any]]) -> str:
    """Seconds of each phase of each run, of the whole, of the steps alone, and what the whole is of these."""
    phases = {phase: None for metrics in runs.values() for phase in metrics["phases"]}
    rows = {phase: [metrics["phases"].get(phase, 0.0) for metrics in runs.values()] for phase in phases}
    rows[OUTSIDE] = [metrics["whole"] - sum(metrics["phases"].values()) for metrics in runs.values()]
    rows["**whole run**"] = [metrics["whole"] for metrics in runs.values()]
    rows["its steps alone"] = [step_seconds(metrics["history"]) for metrics in runs.values()]
    lines = [f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} |" for name, values in rows.items()]
    ratios = [metrics["whole"] / step_seconds(metrics["history"]) for metrics in runs.values()]
    lines.append(f"| whole / steps | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    return "\n".join([f"| seconds | {' | '.join(runs)} |", "|---|" + "---|" * len(runs), *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--rows", type=int, default=12_247, help="samples of the training split")
    parser.add_argument("--without-cache", action="store_true", help="one run without the feature cache, too")
    options, settings = parser.parse_known_args()
    root, cache = options.folder / f"data-{options.rows}", options.folder / "features"
    if not root.exists():
        print("writing", root, flush=True)
        write_set(root, options.rows)
    shutil.rmtree(cache, ignore_errors=True)
    cached = [*settings, "--data.feature_cache", str(cache)]
    ways = {"without the cache": settings} if options.without_cache else {}
    ways |= {"first run": cached, "second run": cached}
    runs = {name: run(root, options.folder / name.replace(" ", "-"), chosen) for name, chosen in ways.items()}
    print(f"\n{options.rows} samples, {int(runs['first run']['epochs'])} epochs\n\n{table(runs)}")


if __name__ == "__main__":
    main()
