"""Calls in separate processes: thread counts, results, errors, a killed process and an interrupt."""

import multiprocessing
import os
import signal
import time
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path

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


def test_each_item_returns_its_result_or_raises_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    calls = dict(run_jobs(partial(work, offset=10), range(4), 2))
    assert sorted(calls) == [0, 1, 2, 3]
    results = {item: result_of(call) for item, call in calls.items() if item != 2}
    assert {item: result[0] for item, result in results.items()} == {0: 10, 1: 11, 3: 13}
    assert {threads for _, threads, _ in results.values()} == {2}
    assert os.getpid() not in {process for _, _, process in results.values()}
    with pytest.raises(UserError, match="two is wrong"):
        result_of(calls[2])


def test_killed_process_raises() -> None:
    [(item, call)] = run_jobs(die, [7], 1)
    assert item == 7
    with pytest.raises(UserError, match=r"a process was killed.*try fewer --jobs"):
        result_of(call)


def wait_forever(item: int, started: Path) -> None:
    (started / str(item)).touch()
    time.sleep(600)


def interrupted_call(started: Path) -> None:
    """Run calls in a new process group, so that the whole group can be interrupted as by a terminal."""
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background commands of a shell ignore SIGINT by default
    try:
        list(run_jobs(partial(wait_forever, started=started), [0, 1, 2], 2))
    except KeyboardInterrupt:
        (started / "interrupted").touch()


def start_interrupted_call(started: Path) -> SpawnProcess:
    process = multiprocessing.get_context("spawn").Process(target=interrupted_call, args=(started,))
    process.start()
    for _ in range(600):
        if all((started / name).exists() for name in "01"):
            break
        time.sleep(0.1)
    return process


def is_empty(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_interrupt_ends_all_calls_without_a_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    process = start_interrupted_call(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    process.join(timeout=60)
    assert process.exitcode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "interrupted"]
    assert "Traceback" not in capfd.readouterr().err
    assert is_empty(process.pid)


def test_calls_end_with_their_parent_process(tmp_path: Path) -> None:
    process = start_interrupted_call(tmp_path)
    group = process.pid
    process.kill()
    process.join()
    for _ in range(300):
        if is_empty(group):
            break
        time.sleep(0.1)
    assert is_empty(group)
