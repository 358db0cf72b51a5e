"""The command of the evidence benchmark on small data and a tiny encoder: runs, resumes, reports and errors."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel

from attnmixup.options import PRESETS
from benchmarks.evidence import cells, encoder
from benchmarks.evidence.__main__ import main
from benchmarks.evidence.cells import chosen_rate, finished_cells, read_cell, units_of
from benchmarks.evidence.config import load_config
from benchmarks.evidence.encoder import PooledEncoder, SentenceBatch, cached_features
from benchmarks.evidence.pool import load_pool
from benchmarks.evidence.readers import SOURCES, SPLITS, read_source
from benchmarks.evidence.training import Head, ScoredPart
from reference_models.data.tokenizer import learn_tokenizer
from reference_models.errors import UserError

WORDS = ["Ann", "lives", "in", "New", "York", "now"]
TAGS = ["B-PER", "O", "O", "B-LOC", "I-LOC", "O"]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Create data, encoder and configuration."""
    (tmp_path / "data" / "wnut17").mkdir(parents=True)
    sentence = "".join(f"{word}\t{tag}\n" for word, tag in zip(WORDS, TAGS, strict=True))
    for split in ("train", "valid", "test"):
        (tmp_path / "data" / "wnut17" / f"{split}.txt").write_text("\n".join([sentence] * 6 + ["now\tO\n"]))
    tokenizer = learn_tokenizer([WORDS] * 4, 60)
    tokenizer.save_pretrained(tmp_path / "encoder")
    torch.manual_seed(0)
    tiny = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(tokenizer), **tiny)).save_pretrained(tmp_path / "encoder")
    config = {
        "encoder": str(tmp_path / "encoder"),
        "training": {
            "hidden": 8,
            "steps": 4,
            "evaluations": 2,
            "learning_rates": [0.01, 0.1],
            "choice_seeds": 2,
            "seeds": 3,
        },
        "suites": {
            "tables": {
                "data_sets": [{"name": "wine-5", "source": "wine", "half": "design", "subset": {"per_class": 5}}]
            },
            "entities": {
                "training": {"batch_size": 4},
                "data_sets": [{"name": "wnut17", "source": "wnut17", "half": "held_back"}],
            },
        },
        "arms": {"plain": None, "paper": {}, "balanced": {"partner": "balanced"}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return tmp_path


def arguments(folder: Path, *more: str) -> list[str]:
    return [str(folder / "config.yaml"), "--data", str(folder / "data"), "--out", str(folder / "out"), *more]


def test_command_runs_reports_and_resumes(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(arguments(folders)) == 0
    out = folders / "out"
    printed = capsys.readouterr().out
    # Two learning rates with two seeds each, and the third seed at the chosen rate. The balanced arm is trained only
    # where a sample has one class.
    assert printed.count("5 cells trained") == 5
    assert len(list((out / "cells").rglob("*.json"))) == 25
    assert not list(out.rglob("*.partial"))
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        *(f"{suite}.{kind}" for suite in ("tables", "entities") for kind in ("md", "csv", "png")),
        "summary.md",
    }
    table = (out / "tables.md").read_text()
    assert "for the 4 comparisons of" in " ".join(table.split())
    assert "`python -m benchmarks.evidence" in table
    assert "Data: wine " in table
    summary = (out / "summary.md").read_text()
    assert "| held back | paper | 1 in 1 | - |" in summary
    with (out / "tables.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["arm"] for row in rows] == ["plain", "paper", "balanced"]
    finished = json.loads(next((out / "cells" / "wine-5" / "paper").glob("*-2.json")).read_text())
    assert finished["learning_rate"] == float(rows[1]["learning_rate"])

    next((out / "cells" / "wnut17" / "plain").glob("*-2.json")).unlink()
    (out / "cells" / "wnut17" / "paper" / "0.1-0.json").write_text('{"key": ')
    assert main(arguments(folders)) == 0
    printed = capsys.readouterr().out
    assert (printed.count("1 cells trained"), printed.count("0 cells trained")) == (2, 3)

    monkeypatch.setattr(cells, "train_cell", None)
    before = (out / "tables.md").read_text()
    assert main([str(folders / "config.yaml"), "--out", str(out), "--report"]) == 0
    assert (out / "tables.md").read_text().splitlines()[:8] == before.splitlines()[:8]
    assert main([str(folders / "config.yaml"), "--out", str(out), "--report", "--reference", "paper"]) == 0
    assert "| design | plain | 1 in 1 |" in (out / "summary.md").read_text()


def test_two_jobs_train_the_same_cells(folders: Path) -> None:
    scores = []
    for jobs in ("1", "2"):
        out = folders / jobs
        assert (
            main([*arguments(folders, "--jobs", jobs, "--arms", "paper")[:-4], "--out", str(out), "--jobs", jobs]) == 0
        )
        found = {path.relative_to(out): json.loads(path.read_text()) for path in out.rglob("*.json")}
        scores.append({path: cell["test"] for path, cell in found.items()})
    assert scores[0] == scores[1]


def test_changed_arm_is_trained_again_and_options_select_cells(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = arguments(folders, "--half", "design", "--arms", "paper")
    assert main(chosen) == 0
    assert capsys.readouterr().out.count("5 cells trained") == 2
    text = (folders / "config.yaml").read_text()
    (folders / "config.yaml").write_text(text.replace("paper: {}", "paper: {heads: 2}"))
    assert main(chosen) == 0
    printed = capsys.readouterr().out
    assert "wine-5, plain: 0 cells trained" in printed
    assert "wine-5, paper: 5 cells trained" in printed


def test_changed_preset_data_or_encoder_is_trained_again(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = arguments(folders, "--data-sets", "wnut17", "--arms", "paper")
    assert main(chosen) == 0
    monkeypatch.setitem(PRESETS, "paper", {"sample_ratio": 0.5})
    capsys.readouterr()
    assert main(chosen) == 0
    printed = capsys.readouterr().out
    assert "wnut17, plain: 0 cells trained" in printed
    assert "wnut17, paper: 5 cells trained" in printed
    path = folders / "data" / "wnut17" / "train.txt"
    path.write_text(path.read_text().replace("Ann", "Bob", 1))
    load_pool.cache_clear()
    assert main(chosen) == 0
    assert capsys.readouterr().out.count("wnut17, plain: 5 cells trained") == 1
    (folders / "encoder" / "notes.txt").write_text("other files, other encoder")
    load_pool.cache_clear()
    assert main(arguments(folders, "--data-sets", "wnut17", "--arms", "plain")) == 0
    assert capsys.readouterr().out.count("wnut17, plain: 5 cells trained") == 1
    assert main([*chosen, "--report"]) == 2
    assert "cells of wnut17 were trained with different fingerprints of the encoder" in capsys.readouterr().err


def test_unknown_preset_is_reported_beside_finished_cells(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = arguments(folders, "--half", "design", "--arms", "paper")
    assert main(chosen) == 0
    text = (folders / "config.yaml").read_text()
    (folders / "config.yaml").write_text(text.replace("paper: {}", "paper: {preset: papre}"))
    for more in ([], ["--report"]):
        assert main([*chosen, *more]) == 2
        assert "got {'preset': 'papre'} (preset must be one of 'paper', " in capsys.readouterr().err


def test_best_validation_learning_rate_is_chosen(folders: Path) -> None:
    [unit] = [
        u for u in units_of(load_config(folders / "config.yaml")) if (u.arm, u.data_set.name) == ("plain", "wine-5")
    ]
    valid = {(0.01, 0): 10.0, (0.01, 1): 30.0, (0.1, 0): 25.0, (0.1, 1): 16.0}
    assert chosen_rate(unit, lambda rate, seed: {"valid": valid[rate, seed]}) == 0.1
    del valid[0.1, 1]
    assert chosen_rate(unit, lambda *cell: {"valid": 1.0} if cell in valid else None) is None
    assert read_cell(unit, folders, 0.1, 0) is None
    assert finished_cells(unit, folders) == {}


def test_interrupt_explains_how_to_resume(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "train_cell", lambda *call: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(arguments(folders)) == 130
    assert "the same command resumes" in capsys.readouterr().err


def test_features_are_computed_once(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = read_source("wnut17", folders / "data")
    path = folders / "cache" / "features.safetensors"
    features = cached_features(folders / "encoder", texts, path)
    assert features["train"].shape == (37, 12)
    assert features["train"].dtype == torch.float16
    # Features are in the order of the sentences and do not depend on the other sentences of a batch.
    torch.testing.assert_close(features["train"][:6], features["test"][30:36])
    monkeypatch.setattr(encoder, "frozen_features", None)
    again = cached_features(folders / "encoder", texts, path)
    assert all(torch.equal(features[split], again[split]) for split in features)


def test_fine_tuned_encoder_starts_from_the_frozen_features(folders: Path) -> None:
    texts = read_source("wnut17", folders / "data")
    frozen = cached_features(folders / "encoder", texts, folders / "features.safetensors")
    pool = load_pool("wnut17", str(folders / "encoder"), True, folders / "data", folders / "cache")
    head = Head(pool, 8, None, seed=0).eval()
    rows = torch.tensor([6, 0, 3])
    inputs, tags, mask = pool.padded(rows)
    assert isinstance(inputs, SentenceBatch)
    expected = torch.cat([frozen[split] for split in SPLITS])[pool.places(rows)]
    torch.testing.assert_close(head.encoder(inputs)[mask].half(), expected, rtol=0, atol=2e-3)
    scored = ScoredPart.of(pool, rows)
    torch.testing.assert_close(scored.logits(head), head(inputs)[mask])
    assert torch.equal(scored.labels, tags[mask])
    by_rate = {group["lr"]: len(group["params"]) for group in head.groups(1.0, 10.0)}
    assert by_rate == {1.0: len(list(PooledEncoder(folders / "encoder").parameters())), 10.0: 4}


def test_fine_tuning_trains_the_encoder(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (folders / "config.yaml").read_text()
    (folders / "config.yaml").write_text(f"fine_tuned: true\n{text}")
    assert main(arguments(folders, "--data-sets", "wnut17", "--arms", "paper")) == 0
    assert "wnut17" in capsys.readouterr().out
    pool = load_pool("wnut17", str(folders / "encoder"), True, folders / "data", folders / "cache")
    head = Head(pool, 8, {}, seed=0)
    head.loss(*pool.padded(torch.arange(4))).backward()
    assert all(
        parameter.grad is not None for name, parameter in head.encoder.named_parameters() if "pooler" not in name
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("plain: null", "plain: {}"), "expected the arm 'plain: null'"),
        (("half: design", "half: mine"), "half"),
        (("choice_seeds: 2", "choice_seeds: 4"), "expected 2 <= choice_seeds <= seeds, got 4 and 3"),
        (("name: wnut17", "name: wine-5"), "several of wine-5"),
        (("hidden: 8", "width: 8"), "width"),
        (("suites:", "fine_tuned: 'no'\nsuites:"), "expected fine_tuned to be true or false, got 'no'"),
    ],
)
def test_invalid_configurations_raise(change: tuple[str, str], message: str, folders: Path) -> None:
    path = folders / "config.yaml"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(UserError, match=message):
        load_config(path)


def test_invalid_arguments_are_reported(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, message in (
        (["--data-sets", "x"], "unknown data set x; expected some of wine-5, wnut17"),
        (["--arms", "x"], "unknown arm x; expected some of plain"),
        (["--reference", "x"], "unknown arm x; expected some of plain"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
    ):
        assert main(arguments(folders, *more)) == 2
        assert message in capsys.readouterr().err
    assert main([str(folders / "config.yaml"), "--out", str(folders)]) == 2
    assert "--data FOLDER is needed" in capsys.readouterr().err
    assert main([str(folders / "config.yaml"), "--out", str(folders / "empty"), "--report"]) == 0
    assert "No finished data set" in capsys.readouterr().out


def test_shipped_configuration_is_valid() -> None:
    config = load_config(Path(cells.__file__).with_name("frozen.yaml"))
    families = {half: {d.family for d in config.data_sets if d.half == half} for half in ("design", "held_back")}
    assert not families["design"] & families["held_back"]
    assert {d.source for d in config.data_sets} <= set(SOURCES)
