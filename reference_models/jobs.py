"""Parallel calls of a function in separate processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

import torch
from transformers.utils.logging import disable_progress_bar

from reference_models.errors import UserError
from reference_models.plugins import load_plugins

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_jobs(
    function: Callable[[Item], Result], items: Iterable[Item], jobs: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Call a function for each item; the processes share the threads of this process equally.

    Only this process receives interrupts. An interrupt, any other error in this process, or its death terminates the
    running calls.

    Args:
        function: A module-level function or a partial of one, so that a new process can import it.
        items: Arguments of the calls, started in this order. They and the results are pickled.
        jobs: Number of parallel calls; capped at the number of items.

    Yields:
        Each item with its call, for `result_of`, as soon as the call has finished.
    """
    items = list(items)
    jobs = min(jobs, max(1, len(items)))
    threads = max(1, torch.get_num_threads() // jobs)
    # Spawn, because a fork copies the state of threads.
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (threads,))
    others = set(multiprocessing.active_children())
    try:
        with _interrupts_ignored():  # the new processes inherit this when they start
            calls = {pool.submit(function, item): item for item in items}
        for call in as_completed(calls):
            yield calls[call], call
    except BaseException:
        workers = set(multiprocessing.active_children()) - others
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.terminate()
        raise
    pool.shutdown()


def result_of(call: Future[Result]) -> Result:
    """Return the result of a call of `run_jobs`, or raise its error.

    Raises:
        UserError: If its process was killed.
    """
    try:
        return call.result()
    except BrokenProcessPool as error:
        raise UserError("a process was killed, possibly because memory ran out; try fewer --jobs") from error


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives interrupts
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _begin(threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    load_plugins()
    disable_progress_bar()
    torch.set_num_threads(threads)
