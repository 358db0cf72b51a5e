"""Run a function in the processes of a gloo group."""

from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_on_ranks(work, folder, ranks, *, seconds=20):
    """Run `work(rank)`, a top-level function, on all ranks and return the results; a wait over `seconds` raises."""
    mp.spawn(_run, (work, str(folder), ranks, seconds), nprocs=ranks)
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


def _run(rank, work, folder, ranks, seconds):
    torch.set_num_threads(1)
    limit = timedelta(seconds=seconds)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks, timeout=limit)
    torch.save(work(rank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
