"""A change of any input of a run is detected: on resume, and before a finished run is skipped."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from reference_models.config import RunConfig
from reference_models.data.formats import SPLITS
from reference_models.data.synthetic import generate
from reference_models.errors import UserError
from reference_models.settings import read_settings
from reference_models.training.fingerprints import input_fingerprints
from reference_models.training.run import read_samples
from reference_models.training.seeds import train_seeds
from tests.reference_models.training.tiny_runs import encoder_without_dropout

SIZES = {"train": 8, "valid": 4, "test": 4}
TASKS = ("ner", "re")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for task in TASKS:
        generate(folder / task / "posts", task, 0, SIZES)
    encoder_without_dropout(folder / "ner" / "posts", folder / "encoder")
    return folder


def settings(folder: Path, task: str, *overrides: str) -> RunConfig:
    basis = ["--data.root", str(folder / task / "posts"), "--output", str(folder / "run"), "--training.epochs", "1"]
    return read_settings(f"synthetic-{task}", [*basis, *overrides])


def fingerprints(config: RunConfig) -> dict[str, str]:
    return input_fingerprints(config, {split: read_samples(config, split) for split in SPLITS})


def move_line(folder: Path) -> None:
    """Move the first row of the validation split to the training split; all lines together stay the same."""
    train, valid = (folder / "re/posts/txt" / f"ours_{name}.txt" for name in ("train", "val"))
    first, rest = valid.read_text().split("\n", 1)
    train.write_text(f"{train.read_text()}{first}\n")
    valid.write_text(rest)
    shutil.copytree(folder / "re/posts/img_org/val", folder / "re/posts/img_org/train", dirs_exist_ok=True)


def swap_relations(folder: Path) -> None:
    file = folder / "re/posts/ours_rel2id.json"
    relations = json.loads(file.read_text())
    first, second = [name for name in relations if name != "None"][:2]
    relations[first], relations[second] = relations[second], relations[first]
    file.write_text(json.dumps(relations))


def swap_crops(folder: Path) -> None:
    file = folder / "re/posts/txt/mre_train_dict.pth"
    crops = torch.load(file, weights_only=True)
    first, second = (key for key in crops if crops[key]), (key for key in reversed(crops) if crops[key])
    one, other = next(first), next(second)
    crops[one], crops[other] = crops[other], crops[one]
    torch.save(crops, file)


def repaint(path: Path) -> None:
    Image.new("RGB", (60, 60), (200, 30, 30)).save(path)


CHANGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "line moved to another split": ("re", move_line, "train_labels"),
    "relation ids": ("re", swap_relations, "relation_ids"),
    "crop dictionary": ("re", swap_crops, "train_images"),
    "image": ("re", lambda folder: repaint(folder / "re/posts/img_org/test/test_0.jpg"), "test_images"),
    "crop": ("ner", lambda f: repaint(f / "ner/posts_aux_images/val/crops/valid_0_crop_0.png"), "valid_images"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_data_change_the_fingerprint(name: str, sets: Path, tmp_path: Path) -> None:
    task, change, seen = CHANGES[name]
    shutil.copytree(sets / task, tmp_path / task)
    before = fingerprints(settings(tmp_path, task))
    assert fingerprints(settings(tmp_path, task)) == before
    change(tmp_path)
    after = fingerprints(settings(tmp_path, task))
    assert after.keys() == before.keys()
    assert f"{seen}_fingerprint" in {key for key in before if before[key] != after[key]}


def test_copied_data_have_the_same_fingerprints(sets: Path, tmp_path: Path) -> None:
    for task in TASKS:
        shutil.copytree(sets / task, tmp_path / task)
        assert fingerprints(settings(tmp_path, task)) == fingerprints(settings(sets, task))


def test_text_only_run_has_only_label_fingerprints(sets: Path) -> None:
    config = read_settings("synthetic-ner", ["--data.root", str(sets / "ner" / "posts")], system="text-only")
    assert set(fingerprints(config)) == {
        "labels_fingerprint",
        *(f"{split}_labels_fingerprint" for split in SPLITS),
    }


def test_changed_local_text_encoder_changes_the_fingerprint(sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "encoder", tmp_path / "encoder")
    config = settings(sets, "ner", "--model.text", str(tmp_path / "encoder"))
    before = fingerprints(config)
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"other")
    assert {key for key, value in fingerprints(config).items() if before[key] != value} == {"text_fingerprint"}


def test_finished_run_with_changed_images_raises(sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "re", tmp_path / "re")
    config = settings(tmp_path, "re")
    first = train_seeds(config, [0])
    assert train_seeds(config, [0]) == first
    repaint(tmp_path / "re/posts/img_org/test/test_0.jpg")
    with pytest.raises(UserError, match=r"test_images_fingerprint was '\w{12}' and is now '\w{12}'; repeat"):
        train_seeds(config, [0])
