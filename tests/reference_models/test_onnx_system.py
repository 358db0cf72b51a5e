"""ONNX graphs give the scores of the system for batches of any size, and belong to one model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from reference_models import onnx_system
from reference_models.cli import main
from reference_models.data.formats import SPLITS
from reference_models.data.synthetic import generate
from reference_models.errors import UserError
from reference_models.onnx_system import OnnxSystem, export_system
from reference_models.prediction import Predictor
from reference_models.settings import read_settings
from reference_models.systems.base import System
from reference_models.systems.build import build_system
from reference_models.systems.inference import load_batch
from reference_models.tasks.dataset import EncodedSplit
from reference_models.training.run import make_processor, read_split


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for task in ("ner", "re"):
        generate(folder / task / "posts", task, 0, {"train": 24, "valid": 2, "test": 6})
    return folder


def make(data_sets: Path, task: str, name: str, *options: str) -> tuple[System, EncodedSplit]:
    """Return an untrained system and a split of 6 samples."""
    overrides = ["--data.root", str(data_sets / task / "posts"), "--output", str(data_sets / "run"), *options]
    config = read_settings(f"synthetic-{task}", overrides, system=name)
    samples = {split: read_split(config, split)[0] for split in SPLITS}
    processor = make_processor(config, samples)
    torch.manual_seed(0)
    return build_system(config.system, config.model, processor).eval(), EncodedSplit(samples["test"], processor)


@pytest.mark.parametrize(
    ("task", "name", "options"),
    [
        ("ner", "i2srm", ["--model.freeze_image_backbone", "true"]),
        ("re", "i2srm-release", ["--data.image_size", "64"]),  # attends to absent images, and shifts positions
        ("ner", "ita", []),  # reads image texts
        ("re", "visualbert", []),  # joins images and text in one sequence
        ("ner", "bert", []),  # no CRF, no image
    ],
)
@torch.inference_mode()
def test_onnx_scores_equal_the_scores_of_the_system(
    task: str, name: str, options: list[str], data_sets: Path, tmp_path: Path
) -> None:
    system, split = make(data_sets, task, name, *options, "--model.attn_mixup", "false", "--model.semantic_weight", "0")
    paths = export_system(system, split.processor, tmp_path, "this")
    assert [path.name for path in paths] == (["images.onnx"] if system.vision is not None else []) + ["scores.onnx"]
    graphs = OnnxSystem(system, tmp_path, "this")
    for numbers in ([0, 1, 2, 3, 4, 5], [3], [5, 0]):  # frozen backbones process 8 images at a time; there are 24
        batch = load_batch(system, split.processor, [split[number] for number in numbers])
        batch.pop("labels")
        masks = [batch.get("image_mask")]
        if system.vision is not None:
            absent = masks[0].clone()
            absent[0], absent[-1, 1:] = False, False
            masks += [absent, torch.zeros_like(absent)]
        for mask in masks:
            given = batch if mask is None else batch | {"image_mask": mask}
            ours, theirs = graphs(**given), system(**given)
            real = given.get("word_mask", torch.ones(len(numbers), dtype=torch.bool))
            torch.testing.assert_close(ours.scores[real], theirs.scores[real], rtol=0, atol=1e-4)
            assert torch.equal(ours.predictions, theirs.predictions)


def test_exported_graphs_give_the_same_predictions(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(runs["ner"]), str(tmp_path / "graphs")]) == 0
    assert capsys.readouterr().out.count("its scores match those of the model") == 2
    Image.new("RGB", (60, 60), (200, 30, 30)).save(tmp_path / "red.png")
    posts: list[dict[str, Any]] = [{"text": "so " * n + "Ruby Vex"} for n in range(5)]
    for post in posts[1:3]:
        post |= {"image": "red.png", "crops": ["red.png"] * 2}
    posts[3] |= {"image": "red.png"}
    (tmp_path / "posts.jsonl").write_text("\n".join(map(json.dumps, posts)))
    files: dict[str, list[dict[str, Any]]] = {}
    for name, options in {"torch": [], "onnx": ["--onnx", str(tmp_path / "graphs")]}.items():
        output = tmp_path / f"{name}.jsonl"
        ends = ["--input", str(tmp_path / "posts.jsonl"), "--output", str(output), *options]
        assert main(["predict", str(runs["ner"]), *ends]) == 0
        files[name] = [json.loads(line) for line in output.read_text().splitlines()]
    for ours, theirs in zip(files["onnx"], files["torch"], strict=True):
        for one, other in zip(ours["entities"], theirs["entities"], strict=True):
            assert one.pop("probability") == pytest.approx(other.pop("probability"), abs=1e-4)
            assert one == other
    facts = Predictor(runs["ner"], onnx=tmp_path / "graphs").facts()
    assert facts == Predictor(runs["ner"]).facts() | {"onnx": True}


def test_invalid_graphs_raise(runs: dict[str, Path], tmp_path: Path) -> None:
    Predictor(runs["text-only"]).export_onnx(tmp_path / "graphs")
    shutil.copytree(runs["text-only"], tmp_path / "run")
    config = tmp_path / "run/model/config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(UserError, match=r"scores\.onnx was made from another model; export this model"):
        Predictor(tmp_path / "run", onnx=tmp_path / "graphs")
    with pytest.raises(
        UserError, match=r"scores\.onnx: the file does not exist; write it with i2srm export MODEL .*none"
    ):
        Predictor(runs["text-only"], onnx=tmp_path / "none")
    with pytest.raises(UserError, match="leave them out"):
        Predictor(runs["text-only"], onnx=tmp_path / "graphs", int8=True)
    (tmp_path / "graphs/scores.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"scores\.onnx is damaged or cannot be read .*export the model again"):
        Predictor(runs["text-only"], onnx=tmp_path / "graphs")


def test_system_without_onnx_support_raises(data_sets: Path, tmp_path: Path) -> None:
    system, split = make(data_sets, "ner", "cnn-bilstm-crf")
    with pytest.raises(UserError, match="this system cannot be exported to ONNX"):
        export_system(system, split.processor, tmp_path, "this")


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_missing_package_error_names_the_extra(
    package: str,
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delitem(sys.modules, "reference_models.onnx_system")
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", str(runs["text-only"]), str(tmp_path / "graphs")]) == 2
    printed = capsys.readouterr().err
    assert f"the package {package} is not installed; install what this command needs" in printed
    assert "pip install '.[onnx]'" in printed
    assert not (tmp_path / "graphs").exists()


def test_other_modules_import_without_onnxruntime() -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None; import reference_models.cli, reference_models.prediction_files"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_graphs_with_other_scores_raise_and_are_deleted(
    data_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, split = make(data_sets, "ner", "bert")

    def run_with_error(*given: Any) -> list[torch.Tensor]:
        scores, mask = run(*given)
        return [scores + 2e-4, mask]

    run = onnx_system._run
    monkeypatch.setattr(onnx_system, "_run", run_with_error)
    with pytest.raises(UserError, match=r"differ from the model's by 2\.0e-04; they were deleted"):
        export_system(system, split.processor, tmp_path, "this")
    assert list(tmp_path.iterdir()) == []
