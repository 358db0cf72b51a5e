"""The report page of a run is well-formed, self-contained, escaped, consistent with the run, and deterministic."""

import json
import shutil
from base64 import b64decode
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from reference_models.config import RunConfig
from reference_models.errors import UserError
from reference_models.report.page import write_report
from reference_models.settings import read_settings
from reference_models.training.fingerprints import images_fingerprint
from reference_models.training.folder import CONFIG, START
from reference_models.training.run import read_samples
from tests.reference_models.page_parser import HOSTILE, Page

NAMES = ["ner", "re", "text-only"]


def settings(run: Path, *overrides: str) -> RunConfig:
    return read_settings(run / CONFIG, overrides)


@pytest.fixture(scope="module")
def pages(runs: dict[str, Path]) -> dict[str, str]:
    return {name: write_report(run, settings(run)).read_text(encoding="utf-8") for name, run in runs.items()}


@pytest.mark.parametrize("name", NAMES)
def test_page_is_well_formed_and_self_contained(name: str, pages: dict[str, str]) -> None:
    page = Page(pages[name])
    assert len(pages[name]) < 3_000_000
    assert len(set(page.values("id"))) == len(page.values("id"))
    assert {link.removeprefix("#") for link in page.values("href")} == set(page.values("id"))
    assert page.values("src")
    assert all(source.startswith("data:image/") for source in page.values("src"))
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert not {attribute for attribute, _ in page.attributes if attribute.startswith("on")}
    assert "url(" not in pages[name]
    assert "@import" not in pages[name]
    for source in page.values("src"):
        kind, data = source.split(";base64,")
        if kind == "data:image/svg+xml":
            assert 'href="http' not in b64decode(data).decode()


@pytest.mark.parametrize("name", NAMES)
def test_numbers_match_the_files_of_the_run(name: str, pages: dict[str, str], runs: dict[str, Path]) -> None:
    metrics = json.loads((runs[name] / "metrics.json").read_text())
    page = Page(pages[name])
    (head, *rows), *_ = page.tables["scores"]
    for row in rows:
        split, *cells, samples = row
        assert int(samples) == metrics["samples"][split]
        assert cells == [f"{100 * metrics[split][score.lower()]:.2f}" for score in head[1:-1]]
    by_type, confusion = page.tables["types"]
    assert by_type[-1][1:4] == rows[1][1:4]
    if name != "re":
        assert all(row[3] == f"{100 * metrics['test'][row[0] + '_f1']:.2f}" for row in by_type[1:-1])
    support = {row[0]: int(row[4]) for row in by_type[1:-1]}
    assert {row[0]: sum(int(cell or 0) for cell in row[1:]) for row in confusion[1:-1]} == support
    assert metrics["labels_fingerprint"] in page.text["scores"]


@pytest.mark.parametrize("name", NAMES)
def test_html_in_words_is_escaped(name: str, pages: dict[str, str]) -> None:
    assert "<script" not in pages[name]
    assert HOSTILE in "".join(Page(pages[name]).text.values())


@pytest.mark.parametrize("name", NAMES)
def test_report_is_deterministic(name: str, pages: dict[str, str], runs: dict[str, Path]) -> None:
    assert write_report(runs[name], settings(runs[name])).read_text(encoding="utf-8") == pages[name]


def test_attention_section_shows_a_batch_and_its_sentences(pages: dict[str, str]) -> None:
    for name in ("ner", "re"):
        page = Page(pages[name])
        (head, *rows), *_ = page.tables["attention"]
        assert len(rows) == len(head) - 1 == 8  # batch size of the run
        assert all(sum(float(cell) for cell in row[1:]) == pytest.approx(100, abs=0.5) for row in rows)
        assert HOSTILE in page.text["attention"]


def test_text_only_report_names_the_missing_modules(pages: dict[str, str]) -> None:
    text = Page(pages["text-only"]).text
    assert "without the semantic loss" in text["training"]
    assert "without the semantic loss" in text["modalities"]
    assert "without AttnMixup" in text["attention"]


def test_moved_data_need_a_new_data_root(runs: dict[str, Path], pages: dict[str, str], tmp_path: Path) -> None:
    run = runs["re"]
    moved = tmp_path / "moved"
    with pytest.raises(UserError, match=r"no longer in .*moved"):
        write_report(run, settings(run, "--data.root", str(moved)))
    shutil.copytree(settings(run).data.root, moved)
    assert write_report(run, settings(run, "--data.root", str(moved))).read_text(encoding="utf-8") == pages["re"]


def test_changed_labels_and_missing_images_raise(runs: dict[str, Path], tmp_path: Path) -> None:
    run = runs["re"]
    copy = tmp_path / "copy"
    shutil.copytree(settings(run).data.root, copy)
    config = settings(run, "--data.root", str(copy))
    shutil.rmtree(copy / "img_org")
    with pytest.raises(UserError, match="the file does not exist"):
        write_report(run, config)
    labels = copy / "txt" / "ours_train.txt"
    labels.write_text(labels.read_text() + labels.read_text())
    with pytest.raises(UserError, match="not those of the run"):
        write_report(run, config)


@pytest.mark.parametrize("part", ["image", "crop"])
def test_replaced_test_images_raise(part: str, runs: dict[str, Path], tmp_path: Path) -> None:
    copies = tmp_path / "ner"
    shutil.copytree(Path(settings(runs["ner"]).data.root).parent, copies)
    config, text_only = (settings(runs[name], "--data.root", str(copies / "posts")) for name in ("ner", "text-only"))
    sample = read_samples(config, "test")[-1]
    path = sample.image if part == "image" else sample.crops[0]
    ImageOps.invert(Image.open(path).convert("RGB")).save(path)
    message = r"the test images or crops in .*posts are not those of the run: their fingerprint is \w+, not \w+; rest"
    with pytest.raises(UserError, match=message):
        write_report(runs["ner"], config)
    write_report(runs["text-only"], text_only)


def test_bad_images_are_blanked_and_listed(runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["re"], run)
    copy = tmp_path / "copy"
    shutil.copytree(settings(run).data.root, copy)
    shutil.rmtree(copy / "img_org")
    metrics = json.loads((run / "metrics.json").read_text())
    bad = {"file": "a<b>.jpg", "sample": "test:1", "reason": "the file is empty", "action": "image blanked"}
    metrics["bad_images"]["test"]["found"] = [bad] * 30
    (run / "metrics.json").write_text(json.dumps(metrics))
    config = settings(run, "--data.root", str(copy), "--data.bad_images", "blank")
    start = json.loads((run / START).read_text())
    start["test_images_fingerprint"] = images_fingerprint(read_samples(config, "test"))  # bad in training too
    (run / START).write_text(json.dumps(start))
    text = Page(write_report(run, config).read_text(encoding="utf-8")).text
    assert "too few to compare" in text["modalities"]
    assert "test 1" in text["scores"]
    assert "a<b>.jpg of test:1: the file is empty; image blanked" in text["scores"]
    assert "and 10 more" in text["scores"]
