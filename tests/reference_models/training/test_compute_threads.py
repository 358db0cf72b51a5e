"""The number of compute threads: set, measured, and restored."""

from pathlib import Path

import pytest
import torch

from reference_models.config.training import Threads, TrainingConfig
from reference_models.errors import UserError
from reference_models.training import run, threads
from reference_models.training.threads import computing_threads, fastest_threads, layer_seconds
from tests.reference_models.training.tiny_runs import config


@pytest.fixture
def six_threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fake the thread setting of PyTorch, which starts at six."""
    held = [6]
    monkeypatch.setattr(torch, "get_num_threads", lambda: held[-1])
    monkeypatch.setattr(torch, "set_num_threads", held.append)
    return held


@pytest.mark.parametrize(("setting", "number"), [(3, 3), (0, 6), ("measured", 2)])
def test_threads_are_set_in_the_context_and_restored(
    setting: Threads, number: int, six_threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "fastest_threads", lambda: 2)

    def fail() -> None:
        with computing_threads(setting):
            assert torch.get_num_threads() == number
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == 6


@pytest.mark.parametrize("best", [1, 2, 4, 6])
def test_fastest_threads_has_the_lowest_median_time(
    best: int, six_threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def seconds() -> float:
        asked.append(number := torch.get_num_threads())
        first, slow = len(asked) <= 4, asked.count(number) == 3
        if first:
            return 0.0 if number != best else 100.0
        return 10.0 if slow else 1.0 + abs(number - best)

    monkeypatch.setattr(threads, "layer_seconds", seconds)
    assert fastest_threads() == best
    assert asked == [1, 2, 4, 6] * 6
    assert torch.get_num_threads() == 6


def test_real_measurement_returns_a_valid_thread_count() -> None:
    assert layer_seconds() > 0
    assert 1 <= fastest_threads() <= torch.get_num_threads()


def test_threads_setting_is_used_and_checked(
    six_threads: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(settings: TrainingConfig, folder: Path) -> None:
        raise UserError(f"with {torch.get_num_threads()} threads")

    monkeypatch.setattr(run, "training_arguments", refuse)
    with pytest.raises(UserError, match=r"^with 4 threads$"):
        run.train(config(tmp_path, tmp_path / "run", "--training.threads", "4"))
    assert torch.get_num_threads() == 6
    with pytest.raises(UserError, match=r"training\.threads must be 0 or more and finite, got -1"):
        config(tmp_path, tmp_path / "run", "--training.threads", "-1")
