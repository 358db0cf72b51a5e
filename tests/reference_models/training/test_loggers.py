"""Loggers are chosen by name; a logger that is not installed raises before anything is written."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers.integrations import integration_utils

from reference_models.errors import UserError
from reference_models.training.folder import start_of
from reference_models.training.run import train
from tests.reference_models.training.tiny_runs import config


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_logger_that_is_not_installed_raises(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integration_utils, f"is_{name}_available", lambda: False)
    with pytest.raises(UserError, match=rf"training\.log_to: {name} is not installed; pip install {name}"):
        train(config(data, tmp_path / "run", "--training.log_to", name))
    assert not (tmp_path / "run").exists()


def test_tensorboard_logs_to_the_run_directory(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, str]] = []

    class Writer:
        def __init__(self, log_dir: str) -> None:
            self.folder = log_dir

        def add_scalar(self, name: str, *_: object) -> None:
            written.append((self.folder, name))

        def __getattr__(self, name: str) -> object:
            return lambda *_, **__: None

    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    settings = config(data, tmp_path / "run", "--training.epochs", "1", "--training.log_to", "tensorboard")
    train(settings)
    assert {folder for folder, _ in written} == {str(tmp_path / "run" / "tensorboard")}
    assert {"train/task_loss", "eval/f1"} <= {name for _, name in written}
    assert start_of(settings) == start_of(config(data, tmp_path / "run", "--training.epochs", "1"))
