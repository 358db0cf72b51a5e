"""Checks of the documentation: code runs, commands parse, links resolve, and the named tests exist."""

import doctest
import pkgutil
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attnmixup
from attnmixup import AttnMixup

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    str(path.relative_to(DOCS))
    for path in DOCS.rglob("*.md")
    if not {"_build", "generated"} & set(path.relative_to(DOCS).parts)
)
MODULES = [name for _, name, _ in pkgutil.iter_modules(attnmixup.__path__, "attnmixup.") if "integrations" not in name]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    assert doctest.testmod(import_module(name)).failed == 0


def test_there_are_doctests():
    assert sum(doctest.testmod(import_module(name)).attempted for name in MODULES) >= 8


@pytest.mark.parametrize("page", [page for page in PAGES if "```python\n" in (DOCS / page).read_text()])
def test_code_blocks_of_each_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL):
        exec(compile(block, page, "exec"), namespace)


def test_there_are_pages_with_code():
    assert sum((DOCS / page).read_text().count("```python\n") for page in PAGES) >= 30


@pytest.mark.parametrize("page", PAGES)
def test_blocks_with_python_code_say_so(page):
    blocks = re.findall(r"^```(.*)\n(.*?)^```", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    untyped = [block for kind, block in blocks if not kind and re.search(r"^(from|import) ", block, re.MULTILINE)]
    assert untyped == []


def test_shared_models_are_saved_by_methods_that_exist():
    pytest.importorskip("transformers")
    from reference_models import Predictor

    [block] = re.findall(r"```py\n(.*?)```", (DOCS / "how-to" / "data.md").read_text(), flags=re.DOTALL)
    methods = re.findall(r"\.(\w+)\(", block)
    assert set(methods) == {"from_pretrained", "save_pretrained", "push_to_hub"}
    assert all(hasattr(Predictor, method) for method in methods)


def test_json_lines_of_the_data_page_are_read(tmp_path):
    pytest.importorskip("transformers")
    from reference_models import load_dataset
    from reference_models.data.image_texts import read_image_texts

    sample, texts = re.findall(r"```json\n(.*?)```", (DOCS / "how-to" / "data.md").read_text(), flags=re.DOTALL)
    (tmp_path / "train.jsonl").write_text(sample)
    [read] = load_dataset(tmp_path, format="jsonl")
    assert (read.tags, read.image) == (("B-singer", "I-singer", "O", "O"), tmp_path / "images" / "1.jpg")
    (tmp_path / "texts.jsonl").write_text(texts)
    assert set(read_image_texts(tmp_path / "texts.jsonl")["1.jpg"]) == {"tags", "caption", "ocr"}


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{page}" for page in PAGES)])
def test_i2srm_commands_parse(page, tmp_path, monkeypatch):
    pytest.importorskip("jsonargparse")
    from reference_models.cli import parse
    from reference_models.settings import read_settings

    text = (ROOT / page).read_text()
    blocks = "\n".join(re.findall(r"```(?:\{code-cell\} ipython3)?\n(.*?)```", text, flags=re.DOTALL))
    for name, content in re.findall(r"^%%writefile (\S+)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for command in re.findall(r"^(?:.*&& )?i2srm (.*)$", blocks.replace("\\\n", " "), flags=re.MULTILINE):
        options = parse(shlex.split(command.split(" && ")[0], comments=True))
        if getattr(options, "system", None):
            read_settings(options.data, options.overrides, system=options.system)


def anchors(text):
    """Return the anchors of the headings of a page, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page):
    """Return the links of a page to files, headings, pages and Python objects that do not exist."""
    text, broken = page.read_text(), []
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        target, _, anchor = link.partition("#")
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            broken.append(link)
    for role, target in re.findall(r"\{(doc|py:\w+)\}`(?:[^`<]*<)?([^`>]+)>?`", text):
        try:
            exists = (page.parent / f"{target}.md").exists() if role == "doc" else pkgutil.resolve_name(target)
        except (ImportError, AttributeError):
            exists = False
        if not exists:
            broken.append(target)
    return broken


def test_links_resolve():
    pages = [*ROOT.glob("*.md"), *(DOCS / page for page in PAGES), ROOT / "benchmarks" / "evidence" / "README.md"]
    assert {page: broken for page in pages if (broken := broken_links(page))} == {}


def test_broken_links_are_found(tmp_path):
    good = ["[a](page.md)", "[a](#what-it-is-one-two)", "{doc}`page`", "{py:class}`the mixer <attnmixup.AttnMixup>`"]
    bad = ["[a](none.md)", "[a](page.md#none)", "[a](#none)", "{doc}`a <none>`", "{py:mod}`attnmixup.none`"]
    page = tmp_path / "page.md"
    page.write_text("\n".join(["## What it is: `one`, two", *good, *bad]))
    assert broken_links(page) == ["none.md", "page.md#none", "#none", "none", "attnmixup.none"]


def test_changelog_has_the_groups_of_keep_a_changelog():
    groups = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    title, *versions = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert "\n### " not in title
    assert versions
    for version in versions:
        heading, *parts = re.split(r"^### ", version, flags=re.MULTILINE)
        assert re.fullmatch(r"\[Unreleased\]\s*|\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d\s*", heading)
        names = [part.splitlines()[0] for part in parts]
        assert len(names) == len(set(names))
        assert set(names) <= groups


def test_every_page_is_in_the_table_of_contents():
    entries = set(re.findall(r"^([\w/-]+)$", (DOCS / "index.md").read_text(), flags=re.MULTILINE))
    reference = {f"reference/{path.stem}" for path in (DOCS / "reference").glob("*.md")}
    assert {page.removesuffix(".md") for page in PAGES} - {"index"} == (entries | reference)


def test_batchformer_recipe_matches_pytorch():
    """Compare with the layer and shared classifier of BatchFormer, written in plain PyTorch."""
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
        [path] = (ROOT / "tests").rglob(file)
        assert f"def {test}(" in path.read_text(), f"{file}::{test}"
    functions = set(re.findall(r"`(functional|sampling|final_set|distributed)\.(\w+)", text))
    assert len(functions) >= 8
    for module, function in functions:
        assert hasattr(import_module(f"attnmixup.{module}"), function), f"{module}.{function}"


def test_every_row_of_the_equations_has_a_test():
    rows = [line for line in (DOCS / "equations.md").read_text().splitlines() if line.startswith("| ")]
    with_tests = [row for row in rows if row.count("|") == 6 or "\\|" in row]
    headings = [row for row in with_tests if row.endswith("| test |")]
    assert len(headings) == 4
    assert all("::test_" in row for row in with_tests if row not in headings)


def test_every_public_function_is_in_the_reference():
    reference = "\n".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    whole = re.findall(r"automodule:: (attnmixup[\w.]*)\n   :members:\s*\n", reference)
    classes = re.findall(r"autoclass:: (\w+)", reference)
    assert {"attnmixup.functional", "attnmixup.sampling", "attnmixup.schedule"} <= set(whole)
    assert set(classes) == set(attnmixup.__all__) - {"functional"}


@pytest.mark.parametrize("example", sorted(path.name for path in (DOCS / "examples").glob("*.py")))
def test_examples_run(example, capfd):
    path = str(DOCS / "examples" / example)
    if package := {"lightning_trainer.py": "lightning", "lora.py": "peft"}.get(example):
        pytest.importorskip(package)
    if example == "distributed_loop.py":
        launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
        subprocess.run([sys.executable, *launch, path], check=True)
    else:
        runpy.run_path(path)
    assert re.search(r"accuracy|val/loss", capfd.readouterr().out)
