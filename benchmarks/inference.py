"""Time the prediction of a test split by a finished run: one by one, in batches, and with faster matrix products.

Fast float32 products are left out if they would not keep float32's accuracy, and int8 if the CPU has no exact int8
product.

python -m benchmarks.inference RUN [--repeats 5]
"""

import argparse
import copy
import statistics
import tempfile
from array import array
from functools import partial
from pathlib import Path

import torch

from benchmarks.timing import timed
from reference_models.encoders.int8 import product_is_exact
from reference_models.onnx_system import OnnxSystem, export_system
from reference_models.settings import read_settings
from reference_models.systems.inference import Scorer
from reference_models.tasks.dataset import EncodedSplit
from reference_models.training.evaluation import evaluate_split
from reference_models.training.folder import CONFIG
from reference_models.training.products import float32_products, keeps_float32
from reference_models.training.run import find_run, load_model, read_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--repeats", type=int, default=5)
    options, overrides = parser.parse_known_args()
    run = find_run(options.run)
    config = read_settings(run / CONFIG, overrides)
    model, processor = load_model(run)
    split = EncodedSplit(read_split(config, "test")[0], processor, config.data.long_samples)
    in_file_order = copy.copy(split)
    in_file_order.lengths = array("I", [0]) * len(split)  # samples of equal length keep their order
    size = 4 * config.training.batch_size  # the batch size of `i2srm evaluate`
    with tempfile.TemporaryDirectory() as folder:
        export_system(model, processor, Path(folder), "benchmark")
        graphs = OnnxSystem(model, Path(folder), "benchmark")
    ways: dict[str, tuple[bool, Scorer, EncodedSplit, int]] = {
        "one by one": (False, model, split, 1),
        "one by one, ONNX Runtime": (False, graphs, split, 1),
        f"batches of {size}, order of the file": (False, model, in_file_order, size),
        f"batches of {size}, similar length": (False, model, split, size),
        "the same, ONNX Runtime": (False, graphs, split, size),
        "the same with fast float32": (True, model, split, size),
    }
    if product_is_exact():
        in_int8, _ = load_model(run, int8=True)
        ways["the same in int8"] = (False, in_int8, split, size)
        ways["the same in int8 and with fast float32"] = (True, in_int8, split, size)
    if not keeps_float32(model.device):
        ways = {name: way for name, way in ways.items() if not way[0]}
    f1: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        # Alternate, so that a slow phase of the machine affects all equally.
        for name, (fast, scorer, samples, batch_size) in ways.items():
            with float32_products(fast=fast, device=model.device):
                evaluation, took = timed(partial(evaluate_split, scorer, samples, batch_size, progress=False))
            f1[name] = evaluation.scores["f1"]
            seconds[name].append(took)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; {len(split)} test samples; medians\n")
    print("| prediction | seconds | samples/s | speed-up over one by one | F1 |\n|---|---|---|---|---|")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        ratio = medians["one by one"] / median
        print(f"| {name} | {median:.2f} | {len(split) / median:.1f} | {ratio:.2f} | {100 * f1[name]:.2f} |")


if __name__ == "__main__":
    main()
