"""Checks of the documentation: code runs, commands parse, links resolve, and the named tests exist."""

import doctest
import os
import pkgutil
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attnmixup
from attnmixup import AttnMixup
from attnmixup.diagnostics import findings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    str(path.relative_to(DOCS))
    for path in DOCS.rglob("*.md")
    if not {"_build", "generated"} & set(path.relative_to(DOCS).parts)
)
NEEDED = {"hugging_face_trainer.py": "transformers", "lightning_trainer.py": "lightning", "lora.py": "peft"}
MODULES = [name for _, name, _ in pkgutil.iter_modules(attnmixup.__path__, "attnmixup.") if "integrations" not in name]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str) -> None:
    assert doctest.testmod(import_module(name)).failed == 0


def test_there_are_doctests() -> None:
    assert sum(doctest.testmod(import_module(name)).attempted for name in MODULES) >= 8


def run_page(page: str) -> dict[str, Any]:
    """Run the code blocks of a page and return their names."""
    torch.manual_seed(0)
    namespace: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL):
        exec(compile(block, page, "exec"), namespace)
    return namespace


@pytest.mark.parametrize("page", [page for page in PAGES if "```python\n" in (DOCS / page).read_text()])
def test_code_blocks_of_each_page_run_in_order(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for imported, package in (("reference_models", "transformers"), ("torchcrf", "torchcrf")):
        if re.search(rf"^(from|import) {imported}", (DOCS / page).read_text(), flags=re.MULTILINE):
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    run_page(page)


def test_there_are_pages_with_code() -> None:
    assert sum((DOCS / page).read_text().count("```python\n") for page in PAGES) >= 30


@pytest.mark.parametrize("page", PAGES)
def test_blocks_with_python_code_say_so(page: str) -> None:
    blocks = re.findall(r"^```(.*)\n(.*?)^```", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    untyped = [block for kind, block in blocks if not kind and re.search(r"^(from|import) ", block, re.MULTILINE)]
    assert untyped == []


def test_shared_models_are_saved_by_methods_that_exist() -> None:
    pytest.importorskip("transformers")
    from reference_models import Predictor

    [block] = re.findall(r"```py\n(.*?)```", (DOCS / "how-to" / "data.md").read_text(), flags=re.DOTALL)
    methods = re.findall(r"\.(\w+)\(", block)
    assert set(methods) == {"from_pretrained", "save_pretrained", "push_to_hub"}
    assert all(hasattr(Predictor, method) for method in methods)


def test_json_lines_of_the_data_page_are_read(tmp_path: Path) -> None:
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
def test_i2srm_commands_parse(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jsonargparse")
    from reference_models.cli import parse
    from reference_models.settings import read_settings

    text = (ROOT / page).read_text()
    fences = re.findall(r"^```(.*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    blocks = "\n".join(block for kind, block in fences if kind in ("", "{code-cell} ipython3", "bash"))
    for name, content in re.findall(r"^%%writefile (\S+)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for command in re.findall(r"^(?:.*&& )?i2srm (.*)$", blocks.replace("\\\n", " "), flags=re.MULTILINE):
        options = parse(shlex.split(command.split(" && ")[0], comments=True))
        if getattr(options, "system", None):
            read_settings(options.data, options.overrides, system=options.system)


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
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


def test_links_resolve() -> None:
    pytest.importorskip("transformers")  # for the links to modules of reference_models
    pages = [*ROOT.glob("*.md"), *(DOCS / page for page in PAGES), ROOT / "benchmarks" / "evidence" / "README.md"]
    assert {page: broken for page in pages if (broken := broken_links(page))} == {}


def test_broken_links_are_found(tmp_path: Path) -> None:
    good = ["[a](page.md)", "[a](#what-it-is-one-two)", "{doc}`page`", "{py:class}`the mixer <attnmixup.AttnMixup>`"]
    bad = ["[a](none.md)", "[a](page.md#none)", "[a](#none)", "{doc}`a <none>`", "{py:mod}`attnmixup.none`"]
    page = tmp_path / "page.md"
    page.write_text("\n".join(["## What it is: `one`, two", *good, *bad]))
    assert broken_links(page) == ["none.md", "page.md#none", "#none", "none", "attnmixup.none"]


def test_changelog_has_the_groups_of_keep_a_changelog() -> None:
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


def test_every_page_is_in_the_table_of_contents() -> None:
    entries = set(re.findall(r"^([\w/-]+)$", (DOCS / "index.md").read_text(), flags=re.MULTILINE))
    reference = {f"reference/{path.stem}" for path in (DOCS / "reference").glob("*.md")}
    assert {page.removesuffix(".md") for page in PAGES} - {"index"} == (entries | reference)


def test_batchformer_recipe_matches_pytorch() -> None:
    """Compare with the layer and shared classifier of BatchFormer, written in plain PyTorch."""
    torch.manual_seed(0)
    mixer, head = (
        AttnMixup(8, heads=4, score="dot", feed_forward=8, transformed_ratio=1.0, dropout=0.0),
        nn.Linear(8, 3),
    )
    layer, attention = nn.TransformerEncoderLayer(8, 4, 8, dropout=0.0), mixer.attention
    state, parts = attention.state_dict(), ("query", "key", "value")
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(torch.cat([state[f"project_{part}.weight"] for part in parts]))
        layer.self_attn.in_proj_bias.copy_(torch.cat([state[f"project_{part}.bias"] for part in parts]))
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


def test_sample_weights_recipe_weights_each_label_by_its_own_sample() -> None:
    weighted_loss = run_page("how-to/recipes.md")["weighted_loss"]
    mixer, embeddings, labels = AttnMixup(8), torch.randn(6, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    plan = mixer.draw(6)
    mixed, logits = mixer(embeddings, labels, plan=plan), torch.randn(12, 3)
    # Weights that depend on the class alone are class weights.
    classes = torch.tensor([0.5, 1.0, 3.0])
    expected = mixed.loss(partial(F.cross_entropy, weight=classes), logits)
    torch.testing.assert_close(weighted_loss(mixed, logits, classes[labels]), expected)
    kept = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 0.0])
    relabelled = mixer(embeddings, torch.where(kept > 0, labels, 0), plan=plan)
    torch.testing.assert_close(weighted_loss(relabelled, logits, kept), weighted_loss(mixed, logits, kept))
    mixer.set_strength(0.0)
    expected = F.cross_entropy(logits[:6][kept > 0], labels[kept > 0])
    torch.testing.assert_close(weighted_loss(mixer(embeddings, labels), logits[:6], kept), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixup_recipe_matches_torchvision(smoothing: float) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    manifold_mixup = run_page("how-to/recipes.md")["manifold_mixup"]
    embeddings, labels, head = torch.randn(6, 32), torch.arange(6) % 3, nn.Linear(32, 3)
    images, soft = v2.MixUp(alpha=0.2, num_classes=3)(embeddings[..., None, None], labels)
    lam = soft[torch.arange(6), labels]
    drawn, samples = manifold_mixup.draw(6), torch.arange(6)
    assert drawn.lam.unique().numel() == 1
    assert sorted(drawn.first.tolist()) == samples.tolist()
    assert not (drawn.first == drawn.second).any()
    # torchvision pairs neighbours.
    plan = replace(drawn, first=samples, second=samples.roll(1), lam=lam)
    mixed = manifold_mixup(embeddings, labels, plan=plan)
    torch.testing.assert_close(mixed.embeddings[6:], images.flatten(1))
    criterion = partial(F.cross_entropy, label_smoothing=smoothing)
    expected = criterion(head(images.flatten(1)), soft)
    torch.testing.assert_close(mixed.loss(criterion, head(mixed.embeddings)), expected)


def test_transformers_recipe_initialises_a_mixer_that_the_checkpoint_lacks(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    import transformers

    config = transformers.T5Config(vocab_size=20, d_model=32, d_kv=8, d_ff=8, num_layers=1, num_heads=2)

    class Model(transformers.T5PreTrainedModel):
        def __init__(self, config: transformers.T5Config) -> None:
            super().__init__(config)
            self.shared = nn.Embedding(20, 32)
            self.encoder = transformers.T5EncoderModel(config).encoder
            self.mixer = AttnMixup(32)
            self.post_init()  # type: ignore[no-untyped-call]

    def is_too_large(mixer: AttnMixup) -> bool:
        return any("standard deviation of 1" in finding for finding in findings(mixer.stats(torch.randn(8, 32))))

    page = run_page("how-to/recipes.md")
    [recipe] = re.findall(r"```{code-block} python\n(.*?)```", (DOCS / "how-to/recipes.md").read_text(), re.DOTALL)
    names = page | {"Model": Model, "checkpoint": tmp_path / "plain"}
    transformers.T5EncoderModel(config).save_pretrained(tmp_path / "plain")
    assert is_too_large(Model.from_pretrained(tmp_path / "plain").mixer)
    exec(recipe, names)
    assert not is_too_large(names["model"].mixer)
    names["model"].mixer.set_strength(0.5)
    names["model"].save_pretrained(tmp_path / "whole")
    exec(recipe, whole := names | {"checkpoint": tmp_path / "whole"})
    assert whole["model"].mixer.strength == 0.5


def test_equations_name_tests_and_functions_that_exist() -> None:
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


def test_every_row_of_the_equations_has_a_test() -> None:
    rows = [line for line in (DOCS / "equations.md").read_text().splitlines() if line.startswith("| ")]
    with_tests = [row for row in rows if row.count("|") == 6 or "\\|" in row]
    headings = [row for row in with_tests if row.endswith("| test |")]
    assert len(headings) == 4
    assert all("::test_" in row for row in with_tests if row not in headings)


def test_every_public_function_is_in_the_reference() -> None:
    reference = "\n".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    whole = re.findall(r"automodule:: (attnmixup[\w.]*)\n   :members:\s*\n", reference)
    classes = re.findall(r"autoclass:: (\w+)", reference)
    assert {"attnmixup.functional", "attnmixup.sampling", "attnmixup.schedule"} <= set(whole)
    assert set(classes) == set(attnmixup.__all__) - {"functional"}


@pytest.mark.parametrize("example", sorted(path.name for path in (DOCS / "examples").glob("*.py")))
def test_examples_run(example: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = str(DOCS / "examples" / example)
    if example in NEEDED:
        pytest.importorskip(NEEDED[example])
    if example == "distributed_loop.py":
        launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
        subprocess.run([sys.executable, *launch, path], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    else:
        runpy.run_path(path)
    assert re.search(r"accuracy|val/loss", capfd.readouterr().out)
