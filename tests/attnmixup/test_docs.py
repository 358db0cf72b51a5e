"""The documentation is true: its code runs, its tables name tests that exist, its API page is that of the source."""

import doctest
import importlib.util
import pkgutil
import re
import runpy
from importlib import import_module
from pathlib import Path

import pytest
import torch

import attnmixup

DOCS = Path(__file__).parents[2] / "docs"
MODULES = [name for _, name, _ in pkgutil.iter_modules(attnmixup.__path__, "attnmixup.") if "integrations" not in name]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    assert doctest.testmod(import_module(name)).failed == 0


def test_there_are_doctests():
    assert sum(doctest.testmod(import_module(name)).attempted for name in MODULES) >= 8


def test_use_it_in_your_model_runs_from_top_to_bottom():
    torch.manual_seed(0)
    text = (DOCS / "use_it_in_your_model.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 8
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "use_it_in_your_model.md", "exec"), namespace)


def test_equations_name_tests_and_functions_that_exist():
    text = (DOCS / "equations.md").read_text()
    tests = set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", text))
    assert len(tests) >= 25
    for file, test in tests:
        assert f"def {test}(" in (Path(__file__).parent / file).read_text(), f"{file}::{test}"
    functions = set(re.findall(r"`(functional|sampling|final_set|distributed)\.(\w+)", text))
    assert len(functions) >= 8
    for module, function in functions:
        assert hasattr(import_module(f"attnmixup.{module}"), function), f"{module}.{function}"


def test_every_row_of_the_equations_has_a_test():
    rows = [line for line in (DOCS / "equations.md").read_text().splitlines() if line.startswith("| ")]
    with_tests = [row for row in rows if row.count("|") == 6 or "\\|" in row]
    headings = [row for row in with_tests if row.endswith("| test |")]
    assert len(headings) == 3
    assert all("::test_" in row for row in with_tests if row not in headings)


def test_the_api_page_is_that_of_the_source():
    spec = importlib.util.spec_from_file_location("make_api", DOCS / "make_api.py")
    make_api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_api)
    assert (DOCS / "api.md").read_text() == make_api.page(), "run python docs/make_api.py"


@pytest.mark.parametrize("example", sorted(path.name for path in (DOCS / "examples").glob("*.py")))
def test_examples_run(example, capsys):
    if example == "lightning_trainer.py":
        pytest.importorskip("lightning")
    runpy.run_path(str(DOCS / "examples" / example))
    printed = capsys.readouterr().out
    assert re.search(r"accuracy|val/loss", printed)
