"""Compare a training step of published code with ours: time, memory, and share of the machine's peak.

python -m benchmarks.step --against published [--tasks ner re] [--groups 5] [--repeats 3] [--length 80]

The published code is I2SRM's release for relations and HVPNeT's code for entities, for which I2SRM has no release. Both
are re-created on our model's weights. Weights are random. Sentences have real lengths, and each has an image and three
crops. Each variant runs in its own process, with the memory allocator of the environment up to the line "freed memory
kept". A process takes each batch once as a warm-up. A step is forward, backward, clipping and AdamW; images are decoded
before it, and the feature cache is full. The cost of the modules is a small difference, so steps with and without them
alternate in one process; 10 repeats are enough. "Faster float32 products" are left out if they would not keep float32's
accuracy.
"""

import argparse
import platform
import statistics
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.batches import Task, length_groups, shuffled
from benchmarks.counts import necessary_bytes, necessary_flops, state_bytes
from benchmarks.scaling_data import in_fresh_process, memory
from benchmarks.timing import seconds
from benchmarks.variants import FAST, OURS, Variant, computing, ladder, make_optimizers, training_step
from benchmarks.workload import SIZES, Size, Work, make_model, make_work, results_without_chance
from reference_models.systems.i2srm import I2SRM
from reference_models.training.embeddings import write_used_rows
from reference_models.training.memory import keep_freed_memory
from reference_models.training.products import float32_products, keeps_float32

BATCH_SIZES: dict[Task, int] = {"ner": 8, "re": 16}
OURS_ALONE = {"ours in float32": OURS, "ours in bfloat16": replace(OURS, half=torch.bfloat16)}
WITHOUT_MODULES = replace(OURS, modules=False)
CPU = torch.device("cpu")
GIB = 1e6 / 2**30  # GiB per MB
PEAK_SIZES = ((1280, 768, 3072), (1280, 3072, 768), (2048, 2048, 2048), (4096, 4096, 4096))


def product_peak(dtype: torch.dtype) -> float:
    """Return the operations per second of the fastest matrix product on this machine."""
    best = 0.0
    for rows, inner, columns in PEAK_SIZES:
        left, right = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)
        product = partial(F.linear, left, right)
        shortest = min(seconds(product) for _ in range(8))
        best = max(best, 2 * rows * inner * columns / shortest)
    return best


def time_way(
    task: Task, size: Size, variant: Variant, groups: list[torch.Tensor], repeats: int
) -> tuple[list[float], float]:
    """Return the seconds of each step of a variant, and the peak memory in GiB. Call it in a new process."""
    if variant.kept:
        keep_freed_memory()
    model = make_model(task, size)
    if variant.rows:
        write_used_rows(model)
    # With features from the cache, the image size does not matter, so small images are enough.
    side = 64 if variant.cached else size.side
    work = [make_work(model, lengths, side, seed=number) for number, lengths in enumerate(groups)]
    times = time_steps(model, work, {"": variant}, repeats)[""]
    return times, memory("VmHWM") * GIB  # unlike ru_maxrss, it does not include the peak of the parent process


def time_steps(model: I2SRM, work: list[Work], variants: dict[str, Variant], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of `repeats` steps on each batch, for each variant, after one warm-up round."""
    optimizers = make_optimizers(model)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for part in work * (1 + repeats):
        for name, variant in variants.items():
            step = partial(training_step, model, optimizers[variant.fused], part.batch(variant), variant)
            with computing(model, variant):
                times[name].append(seconds(step))
    return {name: values[len(work) :] for name, values in times.items()}


def share_of_modules(task: Task, size: Size, groups: list[torch.Tensor], repeats: int) -> float:
    """Return the share of a step that both modules take: the median over steps, each run with and without them."""
    keep_freed_memory()
    model = make_model(task, size)
    write_used_rows(model)
    work = [make_work(model, lengths, 64, seed=number) for number, lengths in enumerate(groups)]
    times = time_steps(model, work, {"with": OURS, "without": WITHOUT_MODULES}, repeats)
    return statistics.median(1 - rest / whole for whole, rest in zip(times["with"], times["without"], strict=True))


def measure(task: Task, variants: dict[str, Variant], options: argparse.Namespace) -> None:
    """Measure one task and print its table, one line after each variant."""
    size, batch_size = SIZES[options.size], BATCH_SIZES[task]
    grouped = length_groups(task, batch_size, options.groups)
    if options.length:
        grouped = [torch.full_like(group, options.length) for group in grouped]
    libraries = in_fresh_process(memory, "VmRSS") * GIB
    model = make_model(task, size)
    with float32_products(fast=keeps_float32(CPU), device=CPU):
        peaks = {None: product_peak(torch.float32), torch.bfloat16: product_peak(torch.bfloat16)}
    results = results_without_chance(task, size, grouped[0], variants)

    mean = torch.cat(grouped).float().mean()
    counted = f"{len(grouped)} batches, {options.repeats} times each"
    print(f"\n## {task}, B = {batch_size}, {mean:.1f} sub-words per sentence (median of {counted})\n")
    reached = {dtype: f"{peak / 1e9:.0f}" for dtype, peak in peaks.items()}
    print(f"Products reach {reached[None]} GFLOP/s in float32 and {reached[torch.bfloat16]} in bfloat16; ", end="")
    print(f"weights and AdamW move {necessary_bytes(model) / 1e9:.1f} GB per step.")
    print(f"Libraries take {libraries:.2f} GiB; weights, gradients and moments {state_bytes(model) / 2**30:.2f} GiB.\n")
    print("| | seconds | samples/s | speed-up | over the line above | peak GiB | % of peak | loss | gradients |")
    print("|---|---|---|---|---|---|---|---|---|")
    first = before = 0.0
    for name, way in variants.items():
        if name == f"+ {FAST}" and not keeps_float32(CPU):
            continue
        groups = grouped if way.grouped else shuffled(grouped)
        times, held = in_fresh_process(time_way, task, size, way, groups, options.repeats)
        with computing(model, way):
            flops = [necessary_flops(model, lengths, cached=way.cached, side=size.side) for lengths in groups]
        rates = [count / took for count, took in zip(flops * options.repeats, times, strict=True)]
        cost = statistics.median(times)
        first, before = first or cost, before or cost
        loss, difference = results[name]
        cells = [
            f"{cost:.2f}",
            f"{batch_size / cost:.1f}",
            f"{first / cost:.2f}",
            f"{before / cost:.2f}",
            f"{held:.1f}",
            f"{100 * statistics.median(rates) / peaks[way.half]:.0f}",
            f"{loss:.5f}",
            f"{difference:.1e}",
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        before = cost
    share = in_fresh_process(share_of_modules, task, size, grouped, options.repeats)
    print(f"\nBoth modules take {100 * share:.1f}% of a step: the median over steps, each run with and without them.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", choices=["published"], help="start there and add one measure per line")
    parser.add_argument("--tasks", nargs="+", choices=["ner", "re"], default=["ner", "re"])
    parser.add_argument("--groups", type=int, default=5, help="number of batches, from short to long sentences")
    parser.add_argument("--repeats", type=int, default=1, help="steps on each batch")
    parser.add_argument("--length", type=int, help="number of sub-words of every sentence, instead of real lengths")
    parser.add_argument("--size", choices=list(SIZES), default="base")
    options = parser.parse_args()
    for name in ("groups", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")
    for task in options.tasks:
        measure(task, ladder(task) if options.against else OURS_ALONE, options)


if __name__ == "__main__":
    main()
