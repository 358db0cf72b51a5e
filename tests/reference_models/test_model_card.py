"""A saved model has a card with the scores of its run and without local paths, and can be loaded offline."""

import json
import socket
from pathlib import Path
from shutil import copytree
from statistics import mean, stdev
from typing import Any

import pytest
import yaml

from reference_models import prediction
from reference_models.config import Inputs
from reference_models.errors import UserError
from reference_models.model_card import model_card, settings_without_paths
from reference_models.prediction import Predictor


@pytest.mark.parametrize("name", ["ner", "re", "text-only"])
def test_model_card_matches_the_run(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    predictor, metrics = Predictor(runs[name]), json.loads((runs[name] / "metrics.json").read_text())
    predictor.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert predictor.processor.task.name in header["tags"]
    for split in ("valid", "test"):
        cells = [f"{100 * metrics[split][score]:.2f}" for score in ("precision", "recall", "f1")]
        assert f"| {' | '.join([split, *cells, str(metrics['samples'][split])])} |" in card
    assert all(f"`{label}`" in card for label in predictor.processor.task.labels)
    assert metrics["labels_fingerprint"] in card
    assert "@inproceedings" in card
    assert str(runs[name].parent) not in card
    settings = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert settings["training"]["epochs"] == 2
    assert ('head="Ann Lee", tail="Rome"' in card) == (name == "re")
    assert ("It reads only the sentence." in card) == (name == "text-only")


def test_the_card_has_the_scores_over_seeds_of_a_run_that_is_one_of_several(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    values = {"precision": [0.5, 0.6], "recall": [0.25, 0.25], "f1": [0.7, 0.9]}
    scores = {name: {"mean": mean(each), "deviation": stdev(each), "values": each} for name, each in values.items()}
    summary = {"seeds": [0, 4], "scores": {"valid": scores, "test": scores}}
    copytree(runs["ner"], tmp_path / "seed-0")

    def card_beside(summary: dict[str, Any]) -> str:
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        predictor = Predictor(tmp_path / "seed-0")
        return model_card(predictor.folder.parent, predictor.system, predictor.processor, Inputs())

    card = card_beside(summary)
    assert "Mean and standard deviation of the runs with seeds 0, 4:" in card
    assert "| test | 55.00 ± 7.07 | 25.00 ± 0.00 | 80.00 ± 14.14 |" in card
    for seeds in ([0], [1, 4]):  # a single run has no deviation, and the other summary is of other runs
        assert "standard deviation" not in card_beside(summary | {"seeds": seeds})


def test_the_settings_on_the_card_are_those_that_are_no_paths_of_this_machine(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = yaml.safe_load((runs["ner"] / "config.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "encoder").mkdir(parents=True)

    def model_settings(text: str) -> dict[str, Any]:
        settings["model"]["text"] = text
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
        kept = settings_without_paths(tmp_path)
        assert kept["data"].keys() == settings["data"].keys() - {"root", "feature_cache"}
        assert kept["training"] == settings["training"]
        model: dict[str, Any] = kept["model"]
        return model

    for name in ("org/name", "roberta-large"):
        assert model_settings(name) == settings["model"]
    for path in ("/home/ann/encoder", "./encoder", "../a/b", "~/encoder", "weights/bert/base", "mine/encoder"):
        assert model_settings(path).keys() == settings["model"].keys() - {"text"}


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        (Inputs(characters=True), "only the sentence"),
        (Inputs(images={"grid": "whole", "pooled": "whole"}), "the sentence and the whole image"),
        (Inputs(images={"cells": "crops"}), "the sentence and object crops of the image"),
        (Inputs(images={"cells": "all"}), "the sentence, the whole image and object crops of the image"),
        (Inputs(texts=["tags", "ocr"]), "the sentence and texts about the image (tags, ocr)"),
    ],
)
def test_the_card_names_the_inputs_that_the_system_declares(inputs: Inputs, told: str, runs: dict[str, Path]) -> None:
    card = model_card(runs["ner"], "i2srm", Predictor(runs["ner"]).processor, inputs)
    assert f"in a post. It reads {told}.\n" in card


def test_saved_model_gives_the_same_predictions_and_card_without_network(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[object] = []

    def refuse(*address: object, **_: object) -> None:
        connections.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # it would refuse before any connection
    Predictor(runs["ner"]).save_pretrained(tmp_path / "once")
    Predictor.from_pretrained(tmp_path / "once").save_pretrained(tmp_path / "twice")
    assert (tmp_path / "once" / "README.md").read_bytes() == (tmp_path / "twice" / "README.md").read_bytes()
    assert (tmp_path / "twice" / "model.safetensors").is_file()
    records = [Predictor(folder)("look , Ruby Vex") for folder in (runs["ner"], tmp_path / "once", tmp_path / "twice")]
    assert records[0] == records[1] == records[2]
    with pytest.raises(UserError, match="once is not empty"):
        Predictor(runs["ner"]).save_pretrained(tmp_path / "once")
    assert connections == []


def test_saving_a_model_without_a_run_or_card_raises(runs: dict[str, Path], tmp_path: Path) -> None:
    Predictor(runs["ner"]).save_pretrained(tmp_path / "bare")
    (tmp_path / "bare" / "README.md").unlink()
    with pytest.raises(UserError, match="not the directory of a finished run"):
        Predictor(tmp_path / "bare").save_pretrained(tmp_path / "new")


def test_push_to_hub_uploads_the_saved_files(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def create(name: str, **options: Any) -> str:
        calls.append((name, options))
        return f"https://hub/{name}"

    def upload(*, repo_id: str, folder_path: str) -> None:
        calls.append((repo_id, {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}))

    monkeypatch.setattr(prediction, "create_repo", create)
    monkeypatch.setattr(prediction, "upload_folder", upload)
    predictor = Predictor(runs["ner"])
    assert predictor.push_to_hub("me/birds", private=True) == "https://hub/me/birds"
    predictor.save_pretrained(tmp_path / "saved")
    saved = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    assert calls == [("me/birds", {"private": True, "exist_ok": True}), ("me/birds", saved)]
