"""A tiny data set and a finished run on it, shared by the training tests."""

from pathlib import Path

import pytest

from tests.reference_models.training.tiny_runs import arguments, start, tiny_set


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_set(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run with checkpoints every four steps."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    process = start(arguments(data, run, "--training.checkpoint_steps", "4"))
    process.join()
    assert process.exitcode == 0, run.with_name("finished.log").read_text()
    return run
