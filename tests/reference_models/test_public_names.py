"""The public names exist, are documented and imported lazily; the program runs as a module."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import reference_models
from reference_models import (
    Predictor,
    RunConfig,
    Sample,
    evaluate,
    list_systems,
    load_dataset,
    read_settings,
    train,
)
from reference_models.data.synthetic import generate
from reference_models.errors import UserError


def test_public_names_exist_and_are_documented() -> None:
    for name in reference_models.__all__:
        assert getattr(reference_models, name).__doc__
    assert set(reference_models.__all__) <= set(dir(reference_models))
    with pytest.raises(AttributeError, match="module 'reference_models' has no attribute 'Trainer'"):
        _ = reference_models.Trainer


def test_the_public_names_are_enough_to_train_score_and_predict(tmp_path: Path) -> None:
    data, run = tmp_path / "posts", tmp_path / "run"
    generate(data, "ner", 0, {"train": 48, "valid": 16, "test": 16})
    samples = load_dataset(data, "test")
    assert all(isinstance(sample, Sample) and sample.image for sample in samples)
    config = read_settings("synthetic-ner", ["--data.root", str(data), "--training.epochs", "1"], system="i2srm")
    assert isinstance(config, RunConfig)
    assert config.system in list_systems()
    metrics = train(replace(config, output=str(run)))
    assert evaluate(run).scores == evaluate(str(run), config, "test").scores == metrics["test"]
    post = {"image": str(samples[0].image), "crops": [str(crop) for crop in samples[0].crops]}
    assert "entities" in Predictor.from_pretrained(run)(" ".join(samples[0].words), **post)
    with pytest.raises(UserError, match="not the directory of a finished run"):
        evaluate(tmp_path / "absent")


def test_import_does_not_import_heavy_packages() -> None:
    code = "import sys, reference_models; print(sorted({'torch', 'transformers', 'torchvision'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["reference_models", "reference_models.cli"])
def test_program_runs_as_a_module(module: str) -> None:
    ran = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.split()[0]) == (0, "i2srm")
