"""The documentation is true: its code runs, its tables name tests that exist, its API page is that of the source."""

import doctest
import importlib.util
import pkgutil
import re
import runpy
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attnmixup
from attnmixup import AttnMixup

DOCS = Path(__file__).parents[2] / "docs"
MODULES = [name for _, name, _ in pkgutil.iter_modules(attnmixup.__path__, "attnmixup.") if "integrations" not in name]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    assert doctest.testmod(import_module(name)).failed == 0


def test_there_are_doctests():
    assert sum(doctest.testmod(import_module(name)).attempted for name in MODULES) >= 8


@pytest.mark.parametrize("page", ["use_it_in_your_model.md", "recipes.md"])
def test_pages_run_from_top_to_bottom(page):
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)
    assert len(blocks) >= 8
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)


def test_batchformer_is_the_recipe():
    """The layer and loss of BatchFormer's shared classifier, written with PyTorch alone."""
    torch.manual_seed(0)
    mixer, head = (
        AttnMixup(8, heads=4, score="dot", feed_forward=8, transformed_ratio=1.0, dropout=0.0),
        nn.Linear(8, 3),
    )
    layer, attention = nn.TransformerEncoderLayer(8, 4, 8, dropout=0.0), mixer.attention
    parts = (attention.project_query, attention.project_key, attention.project_value)
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        layer.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    layer.self_attn.out_proj.load_state_dict(attention.project_output.state_dict())
    layer.norm1.load_state_dict(attention.norm.state_dict())
    layer.linear1.load_state_dict(attention.feed_forward.expand.state_dict())
    layer.linear2.load_state_dict(attention.feed_forward.contract.state_dict())
    layer.norm2.load_state_dict(attention.feed_forward.norm.state_dict())
    embeddings, labels = torch.randn(6, 8), torch.arange(6) % 3
    mixed = mixer(embeddings, labels, plan=replace(mixer.draw(6), transformed=torch.arange(6)))
    both = torch.cat([embeddings, layer(embeddings.unsqueeze(1)).squeeze(1)])
    expected = F.cross_entropy(head(both), torch.cat([labels, labels]))
    torch.testing.assert_close(mixed.loss(F.cross_entropy, head(mixed.embeddings)), expected, atol=5e-7, rtol=0)


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
