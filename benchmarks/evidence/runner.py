"""Train the unfinished cells of a benchmark, in one process or several."""

import multiprocessing
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from benchmarks.evidence.cells import Unit, run_unit, units_of
from benchmarks.evidence.config import Config
from benchmarks.evidence.pool import load_pool


def train(config: Config, data: Path, out: Path, jobs: int) -> None:
    """Train the unfinished cells, one line for each data set and arm."""
    units, start = units_of(config), time.perf_counter()
    for number, (unit, trained) in enumerate(_finished(units, data, out, jobs), start=1):
        counted = f"[{number}/{len(units)}] {unit.data_set.name}, {unit.arm}: {trained} cells trained"
        print(f"{counted}, {time.perf_counter() - start:.0f} s", flush=True)


def _finished(units: list[Unit], data: Path, out: Path, jobs: int) -> Iterator[tuple[Unit, int]]:
    """Units with the number of cells trained, as they end."""
    if jobs == 1:
        for unit in units:
            yield unit, run_unit(unit, data, out)
        return
    # Spawned, because a fork copies the state of threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_leave_interrupts_to_the_parent) as executor:
        others = set(multiprocessing.active_children())
        try:
            # Features first, so that no two processes compute the same ones.
            sources = dict.fromkeys((unit.data_set.source, unit.encoder) for unit in units)
            loading = [executor.submit(_fill_cache, source, encoder, data, out) for source, encoder in sources]
            for done in loading:
                done.result()
            waiting = {executor.submit(run_unit, unit, data, out): unit for unit in units}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BaseException:
            workers = set(multiprocessing.active_children()) - others
            executor.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.terminate()
            raise


def _fill_cache(source: str, encoder: str, data: Path, out: Path) -> None:
    torch.set_num_threads(1)
    load_pool(source, encoder, data, out / "features")


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
