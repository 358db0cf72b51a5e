"""A small demo: both tasks, the table, the examples, and the files it writes."""

import json
from pathlib import Path

import pytest
from PIL import Image

from reference_models import demo
from reference_models.cli import main
from reference_models.data import synthetic
from reference_models.settings import read_settings


def test_demo_prints_scores_and_examples_and_writes_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "QUICK", {"train": 24, "valid": 8, "test": 16})
    output = tmp_path / "demo"
    assert main(["demo", "--quick", "--seed", "3", "--output", str(output)]) == 0
    printed = capfd.readouterr().out
    for run in ("i2srm for re", "text-only for re", "i2srm for ner", "text-only for ner"):
        assert f"{run}: epoch 3 of 3: " in printed
    for task, table in zip(("ner", "re"), printed.split("test split (percent)")[1:], strict=True):
        summary = json.loads((output / task / "metrics.json").read_text())
        assert set(summary["models"]) == {"text-only", "i2srm"}
        assert summary["ceiling"] == json.loads((output / task / "data/posts/ceiling.json").read_text())["test"]
        for name, row in summary["models"].items():
            line = next(line for line in table.splitlines() if line.startswith(f"{name} "))
            scores = (row["precision"], row["recall"], row["f1"], summary["ceiling"], row["several"])
            assert line.split()[1:] == [f"{100 * score:.1f}" for score in scores]
            assert row["f1"] == json.loads((output / task / name / "metrics.json").read_text())["test"]["f1"]
        assert Image.open(output / task / "training.png").size[0] > 500
        assert (output / task / "i2srm" / "model" / "model.safetensors").is_file()
        assert not any(
            "semantic_loss" in entry for entry in json.loads((output / task / "text-only/history.json").read_text())
        )
        assert read_settings(output / task / "i2srm" / "config.yaml").model.mixup["preset"] == "recommended"
    images = [line.strip() for line in printed.splitlines() if line.strip().endswith(".jpg")]
    assert len(images) == 6
    assert all(Path(image).is_file() for image in images)
    assert f"are in {output}/" in printed


def test_existing_folder_is_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert f"{tmp_path} already exists" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_zero_jobs_raise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--output", str(tmp_path / "demo"), "--jobs", "0"]) == 2
    assert "--jobs must be 1 or more, got 0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


class StopError(Exception):
    """Simulated interrupt."""


def stop(*_: object) -> None:
    raise StopError


def test_interrupted_demo_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "QUICK", {"train": 24, "valid": 8, "test": 16})
    output = tmp_path / "demo"
    command = ["demo", "--task", "ner", "--quick", "--jobs", "1", "--output", str(output)]

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "text_only_ceiling", stop)  # after the training split is written
        with pytest.raises(StopError):
            main(command)
    assert not (output / "ner/data").exists()
    with monkeypatch.context() as patch:
        patch.setattr(demo, "run_jobs", stop)
        with pytest.raises(StopError):
            main(command)
    label_file = output / "ner/data/posts/ceiling.json"
    written = label_file.stat().st_mtime_ns
    assert main(command) == 0
    table = capfd.readouterr().out.split("test split (percent)")[1]
    assert main(command) == 0
    again = capfd.readouterr().out
    assert again.split("test split (percent)")[1] == table
    assert "epoch" not in again
    assert label_file.stat().st_mtime_ns == written
    assert not list(output.rglob("*.partial"))


@pytest.mark.parametrize(
    ("option", "wanted"),
    [(["--seed", "1"], "{'seed': 1, 'quick': False}"), (["--quick"], "{'seed': 0, 'quick': True}")],
)
def test_demo_with_other_options_is_not_changed(
    option: list[str], wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "generate_whole", stop)
    command = ["demo", "--output", str(tmp_path / "demo")]
    with pytest.raises(StopError):
        main(command)
    assert main([*command, *option]) == 2
    message = capsys.readouterr().err
    assert f"{tmp_path / 'demo'} contains a demo with {{'seed': 0, 'quick': False}}, expected {wanted}; " in message
