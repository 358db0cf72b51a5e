"""The package: version, public names, type marker, and the modules that importing it loads."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import attnmixup

ROOT = Path(__file__).parents[2]
HEAVY = ("transformers", "torchvision", "lightning", "accelerate", "torchcrf", "reference_models", "torch._dynamo")


def test_import_loads_no_heavy_dependencies() -> None:
    code = f"import sys, attnmixup; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_only_torch_and_einops_are_imported() -> None:
    code = (
        "import sys, torch, einops; before = set(sys.modules); import attnmixup; "
        "print({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "{'attnmixup'}"


def test_the_version_has_one_source() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "attnmixup.__version__"}
    assert f"\nversion: {attnmixup.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_contributing_mentions_only_existing_make_targets() -> None:
    named = re.findall(r"`make ([a-z ]+?)(?: ARGS=\S+)?`", (ROOT / "CONTRIBUTING.md").read_text())
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert len(named) >= 5
    assert {target for line in named for target in line.split()} <= targets


def test_public_names_have_docstrings() -> None:
    assert all(getattr(attnmixup, name).__doc__ for name in attnmixup.__all__)


def test_py_typed_is_shipped() -> None:
    assert (Path(attnmixup.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize(("package", "least"), [("attnmixup", 30), ("reference_models", 80)])
def test_docstrings_with_arguments_say_what_is_returned(package: str, least: int) -> None:
    missing, checked = [], 0
    for path in (Path(attnmixup.__file__).parents[1] / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.returns is not None:
                text = ast.get_docstring(node) or ""
                if "Args:" in text and ast.unparse(node.returns) != "None":
                    checked += 1
                    if "Returns:" not in text and "Yields:" not in text:
                        missing.append(f"{path.name}:{node.lineno} {node.name}")
    assert checked > least
    assert missing == []
