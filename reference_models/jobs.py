"""Several calls of a function at once, each in a process of its own."""

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
    """Call a function for each item; each process has an equal share of this one's threads.

    An interrupt reaches this process alone. It, any other error here, and the death of this process end the calls that
    are going on.

    Args:
        function: of a module, or a partial of one, so that a new process finds it.
        items: begun in their order; they and the results are pickled.
        jobs: calls at once; no more than there are items.

    Yields:
        Each item with its call, for `result_of`, as soon as it has ended.
    """
    items = list(items)
    jobs = min(jobs, max(1, len(items)))
    threads = max(1, torch.get_num_threads() // jobs)
    # Spawned, because a fork copies the state of threads.
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (threads,))
    others = set(multiprocessing.active_children())
    try:
        with _interrupts_ignored():  # by the new processes, from their first instant
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
    """What a call of `run_jobs` returned, or its error.

    Raises:
        UserError: its process was killed.
    """
    try:
        return call.result()
    except BrokenProcessPool as error:
        raise UserError("a process was killed, by the system if memory was short; try fewer --jobs") from error


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # no other thread is interrupted
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
