"""Measure how the cost of a training step grows with batch size, sentence length and number of processes."""

import argparse
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.counts import necessary_flops
from benchmarks.timing import median_seconds
from benchmarks.variants import OURS, computing, loss_of, make_optimizers, training_step
from benchmarks.workload import SIZES, make_model, make_work

BATCHES, LENGTHS, RANKS = (1, 4, 16, 64, 256), (16, 32, 64, 128, 256), (1, 2)
BATCH, LENGTH = 16, 32  # fixed value while the other one grows
SIDE = 64  # image size; it does not matter, because features come from the cache
STEPS = 3


def batch(options: argparse.Namespace) -> None:
    """Print a table with one line per batch size, for sentences of LENGTH sub-words."""
    table(options.size, [(size, LENGTH) for size in BATCHES])


def length(options: argparse.Namespace) -> None:
    """Print a table with one line per sentence length, for batches of BATCH samples."""
    table(options.size, [(BATCH, sub_words) for sub_words in LENGTHS])


def table(size: str, shapes: list[tuple[int, int]]) -> None:
    """Print step times of relations in float32, with the feature cache, for pairs of batch size and length."""
    model = make_model("re", SIZES[size])
    optimizer = make_optimizers(model)[True]
    print("\n| B | L | s per step | ms per sample | us per sub-word | GFLOP/s |\n|---|---|---|---|---|---|")
    for samples, sub_words in shapes:
        lengths = torch.full((samples,), sub_words)
        work = make_work(model, lengths, SIDE).batch(OURS)
        with computing(model, OURS):
            took = median_seconds(partial(training_step, model, optimizer, work, OURS), repeats=STEPS, warmup=1)
        rate = necessary_flops(model, lengths, cached=True, side=SIDE) / took / 1e9
        each = 1e3 * took / samples
        print(
            f"| {samples} | {sub_words} | {took:.2f} | {each:.0f} | {1e3 * each / sub_words:.0f} | {rate:.0f} |",
            flush=True,
        )


def ranks(options: argparse.Namespace) -> None:
    """Print a table with one line per number of processes. Each has one thread and its own batch."""
    print(f"\nB = {BATCH} and L = {LENGTH} in each process, one thread each, gradients exchanged by gloo\n")
    print("| processes | s per step | samples/s | speed-up |\n|---|---|---|---|")
    first = None
    for world in RANKS:
        with TemporaryDirectory() as folder:
            spawn(_rank, (world, options.size, folder), nprocs=world)
            took = max(float(path.read_text()) for path in Path(folder).glob("seconds-*"))
        rate = world * BATCH / took
        first = first or rate
        print(f"| {world} | {took:.2f} | {rate:.1f} | {rate / first:.2f} |", flush=True)


def _rank(rank: int, world: int, size: str, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    model = make_model("re", SIZES[size])
    work = make_work(model, torch.full((BATCH,), LENGTH), SIDE, seed=rank).batch(OURS)
    optimizer = make_optimizers(model)[True]
    with computing(model, OURS):
        together = DistributedDataParallel(model)

        def step() -> None:
            loss_of(together, work, OURS).backward()
            optimizer.step()
            optimizer.zero_grad()

        Path(folder, f"seconds-{rank}").write_text(str(median_seconds(step, repeats=STEPS, warmup=1)))
    distributed.destroy_process_group()
