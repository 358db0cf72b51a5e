"""The public names exist, are documented and imported lazily; the program runs as a module."""

import subprocess
import sys

import pytest

import reference_models


def test_public_names_exist_and_are_documented() -> None:
    for name in reference_models.__all__:
        assert getattr(reference_models, name).__doc__
    assert set(reference_models.__all__) <= set(dir(reference_models))
    with pytest.raises(AttributeError, match="module 'reference_models' has no attribute 'Trainer'"):
        _ = reference_models.Trainer


def test_import_does_not_import_heavy_packages() -> None:
    code = "import sys, reference_models; print(sorted({'torch', 'transformers', 'torchvision'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["reference_models", "reference_models.cli"])
def test_program_runs_as_a_module(module: str) -> None:
    ran = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.split()[0]) == (0, "i2srm")
