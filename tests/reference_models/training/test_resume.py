"""A killed run resumes with the same command and ends like an uninterrupted one."""

import os
import random
import time
from itertools import count
from pathlib import Path

import pytest

from reference_models.training.checkpoints import last_checkpoint
from reference_models.training.folder import METRICS
from reference_models.training.run import CHECKPOINTS, train
from reference_models.training.sampling import EpochSampler
from tests.reference_models.training.tiny_runs import arguments, assert_same_run, config, run_pair, start

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
STEPS = ("--training.checkpoint_steps", "4")


def log(run: Path) -> str:
    return run.with_name(f"{run.name}.log").read_text()


@pytest.mark.usefixtures("finished")  # so that everything is imported and the start-up time is stable
def test_random_kills_do_not_change_the_run(data: Path, tmp_path: Path) -> None:
    kills, epochs = (20, "24") if LONG else (3, "4")
    command = arguments(data, tmp_path / "whole", *STEPS, "--training.epochs", epochs)
    started = time.perf_counter()
    process = start(command)
    while not (tmp_path / "whole" / CHECKPOINTS).exists():
        time.sleep(0.01)
    ready = time.perf_counter() - started
    process.join()
    assert process.exitcode == 0
    training = time.perf_counter() - started - ready

    rng = random.Random(0)
    attempt = done = 0
    while done < kills:
        run = tmp_path / f"killed-{attempt}"
        process = start(arguments(data, run, *STEPS, "--training.epochs", epochs))
        process.join(rng.uniform(0.5 * ready, ready + 2 * training / kills))
        if process.is_alive():
            process.kill()
            done += 1
        process.join()
        assert process.exitcode in (0, -9), log(run)
        if (run / METRICS).exists():  # finished, even if it was killed afterwards
            assert_same_run(run, tmp_path / "whole")
            attempt += 1
    process = start(arguments(data, tmp_path / f"killed-{attempt}", *STEPS, "--training.epochs", epochs))
    process.join()
    assert process.exitcode == 0
    assert_same_run(tmp_path / f"killed-{attempt}", tmp_path / "whole")


def test_kills_at_file_changes_do_not_change_the_run(data: Path, tmp_path: Path, finished: Path) -> None:
    run = tmp_path / "run"
    for die_at in count(1, 1 if LONG else 9):
        process = start(arguments(data, run, *STEPS), die_at=die_at)
        process.join()
        if (run / METRICS).exists():
            break
        assert process.exitcode == 9, log(run)
    assert die_at > 20
    assert_same_run(run, finished)
    again = start(arguments(data, run, *STEPS))
    again.join()
    assert again.exitcode == 2
    assert not (run / CHECKPOINTS).exists()


def test_two_processes_resume_within_an_epoch(data: Path, tmp_path: Path) -> None:
    options = (*STEPS, "--training.batch_size", "4", "--training.epochs", "2")
    assert run_pair(arguments(data, tmp_path / "whole", *options)) == [0, 0], log(tmp_path / "whole")
    command = arguments(data, tmp_path / "run", *options)
    checkpoints = tmp_path / "run" / CHECKPOINTS
    assert run_pair(command, until=checkpoints / "checkpoint-8")[0] == -9, log(tmp_path / "run")
    assert last_checkpoint(checkpoints) == str(checkpoints / "checkpoint-8")
    assert run_pair(command) == [0, 0], log(tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_incomplete_checkpoints_are_removed(tmp_path: Path) -> None:
    for name in ("partial", "removed", "checkpoint-4", "checkpoint-12", "checkpoint-8"):
        (tmp_path / name / "deeper").mkdir(parents=True)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-12")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-4", "checkpoint-12", "checkpoint-8"}
    assert last_checkpoint(tmp_path / "nothing") is None


def test_interrupt_message_says_how_to_resume(
    data: Path, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(EpochSampler, "__iter__", interrupt)
        with pytest.raises(KeyboardInterrupt, match="run the same command again"):
            train(config(data, run, *STEPS))
    train(config(data, run, *STEPS))
    assert_same_run(run, finished)
