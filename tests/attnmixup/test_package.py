"""What importing the package means: its version, its names, and what it leaves alone."""

import subprocess
import sys
from pathlib import Path

import attnmixup

HEAVY = ("transformers", "torchvision", "lightning", "accelerate", "torchcrf", "reference_models", "torch._dynamo")


def test_import_is_light():
    code = f"import sys, attnmixup; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_only_torch_and_einops_are_imported():
    code = (
        "import sys, torch, einops; before = set(sys.modules); import attnmixup; "
        "print({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "{'attnmixup'}"


def test_the_version_is_that_of_the_distribution():
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert f'version = "{attnmixup.__version__}"' in project.read_text()


def test_public_names_exist():
    assert all(getattr(attnmixup, name).__doc__ for name in attnmixup.__all__)


def test_types_are_shipped():
    assert (Path(attnmixup.__file__).parent / "py.typed").exists()
