"""Calls in processes of their own: shares of the threads, results as they end, errors, a killed process."""

import os
import signal
from functools import partial

import pytest
import torch

from reference_models.errors import UserError
from reference_models.jobs import result_of, run_jobs


def work(item: int, offset: int) -> tuple[int, int, int]:
    if item == 2:
        raise UserError("two is wrong")
    return item + offset, torch.get_num_threads(), os.getpid()


def die(item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_each_item_gives_its_result_or_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    calls = dict(run_jobs(partial(work, offset=10), range(4), 2))
    assert sorted(calls) == [0, 1, 2, 3]
    results = {item: result_of(call) for item, call in calls.items() if item != 2}
    assert {item: result[0] for item, result in results.items()} == {0: 10, 1: 11, 3: 13}
    assert {threads for _, threads, _ in results.values()} == {2}
    assert os.getpid() not in {process for _, _, process in results.values()}
    with pytest.raises(UserError, match="two is wrong"):
        result_of(calls[2])


def test_a_killed_process_is_said() -> None:
    [(item, call)] = run_jobs(die, [7], 1)
    assert item == 7
    with pytest.raises(UserError, match=r"a process was killed.*try fewer --jobs"):
        result_of(call)
