"""Early stopping: training stops without improvement, keeps the best epoch, and resumes to the same result."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from reference_models.training.early_stop import is_exhausted
from reference_models.training.run import train
from reference_models.training.trainer import ExtractionTrainer
from tests.reference_models.training.tiny_runs import assert_same_run, config, history


@pytest.mark.parametrize(
    ("scores", "patience", "stops"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.5], 1, True),
        ([0.5, 0.6], 1, False),
        ([0.5, 0.6, 0.4], 2, False),
        ([0.6, 0.5, 0.6], 2, True),
        ([0.1, 0.6, 0.5, 0.61], 2, False),
    ],
)
def test_patience_counts_epochs_without_improvement(scores: Sequence[float], patience: int, stops: bool) -> None:
    log = [entry for score in scores for entry in ({"loss": 1.0}, {"eval_f1": score})]
    assert is_exhausted(log, patience) == stops


@pytest.fixture
def falling_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation F1 is 0.9 after the second epoch and lower before and after it."""

    def fake_scores(trainer: ExtractionTrainer, _: object) -> dict[str, float]:
        return {"f1": {1: 0.2, 2: 0.9}.get(round(trainer.state.epoch), 0.5)}

    monkeypatch.setattr(ExtractionTrainer, "_scores_of_validation", fake_scores)


PATIENCE = ("--training.epochs", "6", "--training.patience", "2")


@pytest.mark.usefixtures("falling_scores")
def test_best_epoch_is_kept(data: Path, tmp_path: Path) -> None:
    metrics = train(config(data, tmp_path / "run", *PATIENCE))
    assert metrics["kept_epoch"] == 2
    assert [entry["epoch"] for entry in history(tmp_path / "run") if "eval_f1" in entry] == [1, 2, 3, 4]


@pytest.mark.usefixtures("falling_scores")
@pytest.mark.parametrize("keep", ["best", "last"])
def test_resume_after_early_stop_gives_the_same_run(
    keep: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    options = (*PATIENCE, "--training.keep", keep)
    with monkeypatch.context() as patch:
        patch.setattr("reference_models.training.run.evaluate_split", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config(data, tmp_path / "run", *options))
    train(config(data, tmp_path / "run", *options))
    train(config(data, tmp_path / "whole", *options))
    assert_same_run(tmp_path / "run", tmp_path / "whole")
