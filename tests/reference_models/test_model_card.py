"""A saved model has a card with the scores of its run and without local paths, and can be loaded offline."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from reference_models import prediction
from reference_models.errors import UserError
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
    assert ("It reads text only." in card) == (name == "text-only")


def test_saved_model_gives_the_same_predictions_and_card(runs: dict[str, Path], tmp_path: Path) -> None:
    Predictor(runs["ner"]).save_pretrained(tmp_path / "once")
    Predictor.from_pretrained(tmp_path / "once").save_pretrained(tmp_path / "twice")
    assert (tmp_path / "once" / "README.md").read_bytes() == (tmp_path / "twice" / "README.md").read_bytes()
    assert (tmp_path / "twice" / "model.safetensors").is_file()
    records = [Predictor(folder)("look , Ruby Vex") for folder in (runs["ner"], tmp_path / "once", tmp_path / "twice")]
    assert records[0] == records[1] == records[2]
    with pytest.raises(UserError, match="once is not empty"):
        Predictor(runs["ner"]).save_pretrained(tmp_path / "once")


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
