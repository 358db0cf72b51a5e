"""Every shipped system file trains, resumes after an interrupt, evaluates and predicts on tiny synthetic sets.

Only a few systems run by default; HYPOTHESIS_PROFILE=long runs all.
"""

import json
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from reference_models.cli import main
from reference_models.config import RunConfig
from reference_models.data.synthetic import generate
from reference_models.settings import CONFIGS, read_settings
from reference_models.systems import get_system
from reference_models.training.folder import METRICS
from reference_models.training.run import PREDICTIONS, train
from reference_models.training.sampling import EpochSampler
from tests.reference_models.training.tiny_runs import assert_same_run

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
SIZES = {"train": 16, "valid": 8, "test": 8}
FILES = sorted(path.stem for path in (CONFIGS / "systems").glob("*.yaml"))
CASES = [
    (name, task)
    for name in FILES
    for task in get_system(read_settings(None, system=name).system).tasks or ("ner", "re")
    if LONG or (name, task) in (("cnn-bilstm-crf", "ner"), ("ita", "ner"), ("maf", "ner"), ("visualbert", "re"))
]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    roots = {task: tmp_path_factory.mktemp(task) / "posts" for task in ("ner", "re")}
    for task, root in roots.items():
        generate(root, task, 0, SIZES)
    return roots


@pytest.mark.parametrize(("name", "task"), CASES)
def test_system_trains_resumes_evaluates_and_predicts(
    name: str,
    task: str,
    roots: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def settings(run: str) -> RunConfig:
        places = ["--data.root", str(roots[task]), "--output", str(tmp_path / run)]
        steps = ["--training.epochs", "2", "--training.batch_size", "8", "--training.checkpoint_steps", "1"]
        if name == "i2srm-release":  # the tiny image backbone has no class logits, and a single cell for small images
            steps += ["--model.image_signal", "pooled", "--data.image_size", "64"]
        return read_settings(f"synthetic-{task}", [*places, *steps], system=name)

    train(settings("whole"))
    epochs, begin = count(), EpochSampler.__iter__

    def interrupted(sampler: EpochSampler) -> Iterator[int]:
        if next(epochs) == 1:
            raise KeyboardInterrupt
        return begin(sampler)

    with monkeypatch.context() as patch:
        patch.setattr(EpochSampler, "__iter__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(settings("resumed"))
    train(settings("resumed"))
    run = tmp_path / "resumed"
    assert_same_run(run, tmp_path / "whole")

    capsys.readouterr()
    assert main(["evaluate", str(run), "--json"]) == 0
    saved = json.loads((run / METRICS).read_text())["test"]
    printed = json.loads(capsys.readouterr().out)["scores"]
    assert printed == pytest.approx({score: saved[score] for score in printed})
    row = json.loads((run / PREDICTIONS).read_text().splitlines()[0])
    entities = {part: " ".join(row["words"][slice(*row[part])]) for part in ("head", "tail") if part in row}
    options = [word for part, text in entities.items() for word in (f"--{part}", text)]
    assert main(["predict", str(run), "--text", " ".join(row["words"]), *options]) == 0
    assert capsys.readouterr().out.strip()
