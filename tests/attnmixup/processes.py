"""Run a function in the processes of a gloo group."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

Result = TypeVar("Result")


def run_on_ranks(work: Callable[[int], Result], folder: Path, ranks: int, *, seconds: int = 20) -> list[Result]:
    """Run `work(rank)`, a top-level function, on all ranks and return the results; a wait over `seconds` raises."""
    spawn(_run, (work, str(folder), ranks, seconds), nprocs=ranks)
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


def _run(rank: int, work: Callable[[int], object], folder: str, ranks: int, seconds: int) -> None:
    torch.set_num_threads(1)
    limit = timedelta(seconds=seconds)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks, timeout=limit)
    torch.save(work(rank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
