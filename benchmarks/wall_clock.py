"""Measure the wall-clock time of whole runs by phase, from the command to the final scores.

The data set is synthetic and as large as MNRE, with one image of 224 pixels per sample. FOLDER keeps it for the next
call. Each run is a new process with a frozen image backbone. The first run fills an empty feature cache, and the second
run reads it. With --without-cache, a run before them decodes each image and computes its features for each batch.

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
    """Write a synthetic set of relations whose images and crops are as slow to decode as real ones.

    An interrupted call leaves no partial set under this name.
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
    """Train in a new process. Return the metrics, the history and the wall-clock time of the run."""
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "reference_models", "train", "mnre", "i2srm", "--output", str(output)]
    command += ["--data.root", str(root), "--model.freeze_image_backbone", "true", *settings]
    whole = seconds(partial(subprocess.run, command, check=True))
    metrics: dict[str, Any] = read_json(output / METRICS, "")
    return metrics | {"history": read_json(output / HISTORY, ""), "whole": whole}


def step_seconds(history: list[dict[str, float]]) -> float:
    """Return the seconds of the training steps, without validation, saving, and waiting for batches."""
    total = 0.0
    for last, entry in pairwise([{"seconds": 0.0}, *history]):
        if "loss" in entry:  # a training entry; the others are validation entries
            total += (entry["seconds"] - last["seconds"]) * (1 - entry["waited"])
    return total


def table(runs: dict[str, dict[str, Any]]) -> str:
    """Return a table with the seconds of each phase, the whole run and its steps, and the ratio of the last two."""
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
    parser.add_argument("--without-cache", action="store_true", help="also time a run without the feature cache")
    options, settings = parser.parse_known_args()
    root, cache = options.folder / f"data-{options.rows}", options.folder / "features"
    if not root.exists():
        print("Writing", root, flush=True)
        write_set(root, options.rows)
    shutil.rmtree(cache, ignore_errors=True)
    cached = [*settings, "--data.feature_cache", str(cache)]
    ways = {"without the cache": settings} if options.without_cache else {}
    ways |= {"first run": cached, "second run": cached}
    runs = {name: run(root, options.folder / name.replace(" ", "-"), chosen) for name, chosen in ways.items()}
    print(f"\n{options.rows} samples, {int(runs['first run']['epochs'])} epochs\n\n{table(runs)}")


if __name__ == "__main__":
    main()
