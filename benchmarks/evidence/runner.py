"""Training of the unfinished cells of a benchmark, in one or several processes."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.evidence.cells import Unit, run_unit, units_of
from benchmarks.evidence.config import Config
from benchmarks.evidence.pool import load_pool
from reference_models.jobs import result_of, run_jobs


def train(config: Config, data: Path, out: Path, jobs: int) -> None:
    """Train the unfinished cells and print one line for each data set and arm."""
    units, start = units_of(config), time.perf_counter()
    for number, (unit, trained) in enumerate(_finished(units, data, out, jobs), start=1):
        counted = f"[{number}/{len(units)}] {unit.data_set.name}, {unit.arm}: {trained} cells trained"
        print(f"{counted}, {time.perf_counter() - start:.0f} s", flush=True)


def _finished(units: list[Unit], data: Path, out: Path, jobs: int) -> Iterator[tuple[Unit, int]]:
    """Yield each unit with the number of trained cells when it is finished."""
    if jobs == 1:
        for unit in units:
            yield unit, run_unit(unit, data, out)
        return
    # Compute the features first, so that no two processes compute the same features.
    sources = dict.fromkeys((unit.data_set.source, unit.encoder, unit.fine_tuned) for unit in units)
    for _, loading in run_jobs(partial(_fill_cache, data=data, out=out), sources, jobs):
        result_of(loading)
    for unit, call in run_jobs(partial(run_unit, data=data, folder=out), units, jobs):
        yield unit, result_of(call)


def _fill_cache(source: tuple[str, str, bool], data: Path, out: Path) -> None:
    torch.set_num_threads(1)
    load_pool(*source, data, out / "features")
