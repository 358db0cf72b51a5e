"""Several seeds: one run each, mean and standard deviation, and no run trained twice."""

import json
from pathlib import Path
from typing import Any

import pytest

from reference_models.config import RunConfig
from reference_models.errors import UserError
from reference_models.training import seeds as seeds_module
from reference_models.training.folder import METRICS
from reference_models.training.run import train
from reference_models.training.seeds import SUMMARY, train_seeds
from tests.reference_models.training.tiny_runs import assert_same_run, config

STEPS = ("--training.checkpoint_steps", "4")


def test_mean_and_standard_deviation(
    data: Path, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(data, tmp_path / "runs", *STEPS)
    first = train_seeds(settings, [0])
    assert first["scores"]["test"]["f1"]["deviation"] is None
    summary = train_seeds(settings, [0, 1])
    assert summary == json.loads((tmp_path / "runs" / SUMMARY).read_text())
    runs = [tmp_path / "runs" / f"seed-{seed}" for seed in (0, 1)]
    for split in ("valid", "test"):
        a, b = (json.loads((run / METRICS).read_text())[split]["precision"] for run in runs)
        score = summary["scores"][split]["precision"]
        assert score == {
            "mean": pytest.approx((a + b) / 2),
            "deviation": pytest.approx(abs(a - b) / 2**0.5),
            "values": [a, b],
        }
    # The first seed, and a seed that follows another in the same process, give the same runs as alone.
    assert_same_run(runs[0], finished)
    train(config(data, tmp_path / "alone", *STEPS, "--training.seed", "1"))
    assert_same_run(runs[1], tmp_path / "alone")

    def fail_to_build(*_: object, **__: object) -> None:
        raise RuntimeError("a finished run was built again")

    monkeypatch.setattr("reference_models.training.run.build_system", fail_to_build)
    assert train_seeds(settings, [0, 1]) == summary
    with pytest.raises(UserError, match=r"training\.epochs was 3 and is now 2"):
        train_seeds(config(data, tmp_path / "runs", *STEPS, "--training.epochs", "2"), [0, 1])


def test_each_seed_has_its_own_folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[RunConfig] = []

    def record(one: RunConfig, **_: object) -> dict[str, Any]:
        trained.append(one)
        return {"test": {}, "labels_fingerprint": ""}

    monkeypatch.setattr(seeds_module, "train", record)
    settings = config(data, tmp_path / "runs")
    tmp_path.joinpath("runs").mkdir()
    train_seeds(settings, [3, 1])
    assert [(one.output, one.training.seed) for one in trained] == [
        (str(tmp_path / "runs" / f"seed-{seed}"), seed) for seed in (3, 1)
    ]
    assert settings.training.seed == 0


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_missing_or_repeated_seeds_raise(data: Path, tmp_path: Path, seeds: list[int]) -> None:
    with pytest.raises(UserError, match="different seeds"):
        train_seeds(config(data, tmp_path), seeds)


@pytest.mark.parametrize("wrong", [-1, 2**32])
def test_invalid_seed_raises_before_the_first_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    monkeypatch.setattr(seeds_module, "train", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(UserError, match=rf"training\.seed must be .* got {wrong}"):
        train_seeds(config(data, tmp_path), [0, wrong])
