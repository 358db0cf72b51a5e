"""Tags of images: most probable classes, labels of a detector, given texts, and existing texts that are kept."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import get_model_weights, mobilenet_v2

from reference_models.cli import main
from reference_models.config import RunConfig
from reference_models.config.grounding import GroundingConfig
from reference_models.data.image_texts import image_texts_path, read_image_texts
from reference_models.data.synthetic import generate
from reference_models.errors import UserError
from reference_models.grounding.boxes import Box
from reference_models.grounding.detectors import COCO, CentreDetector, TorchvisionDetector
from reference_models.settings import read_settings
from reference_models.tagging import ClassTagger, DetectorTagger, write_tags

SIZES = {"train": 5, "valid": 3, "test": 2}
NAMES = get_model_weights("mobilenet_v2")["IMAGENET1K_V1"].meta["categories"]
RANDOM = ["--model.vision", "mobilenet_v2", "--model.vision_weights", "none"]


@pytest.fixture(scope="module")
def mobile(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return settings of a backbone with weights in a local file."""
    path = tmp_path_factory.mktemp("weights") / "mobilenet.pt"
    torch.save(mobilenet_v2().state_dict(), path)
    return ["--model.vision", "mobilenet_v2", "--model.vision_weights", str(path)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    generate(tmp_path / "posts", "ner", 0, SIZES)
    return tmp_path / "posts"


def settings(root: Path, *overrides: str) -> RunConfig:
    return read_settings("synthetic-ner", ["--data.root", str(root), *overrides])


def image_of(root: Path, name: str) -> Path:
    return root.with_name("posts_images") / name


def test_class_tagger_returns_the_most_probable_classes_first(root: Path, mobile: list[str]) -> None:
    tagger = ClassTagger(settings(root, *mobile), count=3, least=0.0)
    [classifier] = [module for module in tagger.backbone.modules() if isinstance(module, nn.Linear)]
    nn.init.normal_(classifier.bias)  # random weights give all classes the same score
    pixels = [tagger.load(image_of(root, f"train_{number}.jpg")) for number in range(4)]
    found = tagger.tag(pixels)
    for one, tags in zip(pixels, found, strict=True):
        with torch.no_grad():
            logits = tagger.backbone(one[None])["logits"][0].tolist()
        ranked = sorted(range(1000), key=lambda number: -logits[number])
        assert tags == [NAMES[number] for number in ranked[:3]]
    tagger.backbone = OneConfidentClass()  # type: ignore[assignment]
    tagger.least = 0.5
    assert tagger.tag(pixels) == [[NAMES[7]]] * 4
    tagger.least, tagger.count = 0.0, len(NAMES) + 1
    assert [sorted(tags) for tags in tagger.tag(pixels)] == [sorted(NAMES)] * 4


class OneConfidentClass(nn.Module):
    """A backbone that gives class 7 a probability of 0.9."""

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        logits = torch.zeros(len(pixels), 1000)
        logits[:, 7] = 9.1
        return {"logits": logits}


class FixedDetections(nn.Module):
    """A detector that finds two persons and a car in every image."""

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]] * 4)
        seen = {"boxes": boxes, "scores": torch.tensor([0.5, 0.9, 0.7, 0.01]), "labels": torch.tensor([1, 3, 1, 17])}
        return [seen for _ in images]


def test_detector_tagger_returns_each_class_once_by_best_score() -> None:
    detector = TorchvisionDetector(FixedDetections(), "1", 0.1)
    tagger = DetectorTagger(GroundingConfig(), count=5, detector=detector)
    assert tagger.tag([Image.new("RGB", (9, 9))] * 2) == [["car", "person"]] * 2
    assert (COCO[1], COCO[3]) == ("person", "car")
    assert DetectorTagger(GroundingConfig(), count=1, detector=detector).tag([Image.new("RGB", (9, 9))]) == [["car"]]
    nameless = DetectorTagger(GroundingConfig(), count=5, detector=CentreDetector())
    assert nameless.tag([Image.new("RGB", (9, 9))]) == [[]]
    assert Box(0, 0, 1, 1, 0.5).label is None


def test_write_tags_keeps_existing_texts(root: Path, mobile: list[str], tmp_path: Path) -> None:
    before = read_image_texts(image_texts_path(root, "train"))
    given = tmp_path / "captions.jsonl"
    rows = [{"image": "train_1.jpg", "caption": "a star"}, {"image": "valid_0.jpg", "ocr": "STOP"}]
    given.write_text("\n".join(map(json.dumps, rows)))
    summaries = write_tags(settings(root), source="none", given=[given], progress=False)
    assert read_image_texts(image_texts_path(root, "train")) == before | {
        "train_1.jpg": before["train_1.jpg"] | {"caption": "a star"}
    }
    assert [(one.images, one.texts, one.unreadable) for one in summaries] == [(5, 1, 0), (3, 1, 0), (2, 0, 0)]

    image_of(root, "train_2.jpg").write_bytes(b"no image")
    summaries = write_tags(settings(root, *mobile), count=2, progress=False)
    after = read_image_texts(image_texts_path(root, "train"))
    assert summaries[0].unreadable == 1
    assert after["train_2.jpg"] == before["train_2.jpg"]
    assert after["train_1.jpg"]["caption"] == "a star"
    for number in (0, 1, 3, 4):
        first, _, second = after[f"train_{number}.jpg"]["tags"].partition(", ")
        assert first in NAMES
        assert second.split(",")[0] in {name.split(",")[0] for name in NAMES}


@pytest.mark.parametrize(
    ("options", "overrides", "message"),
    [
        (["--count", "0"], [], "expected 1 tag per image or more .*, got 0"),
        (["--least", "1.5"], [], r"from 0 to 1 \(--least\), got 1\.5"),
        (["--least", "nan"], [], "got nan"),
        ([], RANDOM, "model.vision_weights=none gives random weights, .* set it to imagenet or to a local file"),
        ([], ["--model.vision", "tiny"], "model.vision=tiny has no classes"),
        (["--source", "none", "--texts", "TEXTS"], [], "1 of its images are in no split, such as 'cat.jpg'"),
        ([], ["--data.root", "NOWHERE"], "NOWHERE"),
    ],
)
def test_mistakes_raise_before_anything_is_written(
    options: list[str],
    overrides: list[str],
    message: str,
    root: Path,
    mobile: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = image_texts_path(root, "train").read_bytes()
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"image": "cat.jpg", "caption": "a cat"}\n{"image": "train_0.jpg", "caption": "x"}\n')
    paths = {"TEXTS": str(texts), "NOWHERE": str(tmp_path / "NOWHERE")}
    words = [paths.get(word, word) for word in ["--data.root", str(root), *mobile, *options, *overrides]]
    assert main(["data", "tags", "synthetic-ner", *words]) == 2
    assert image_texts_path(root, "train").read_bytes() == before
    assert re.search(message, capsys.readouterr().err)


def test_phrase_detector_raises() -> None:
    class Asked(CentreDetector):
        name, takes_phrases = "asked", True

    with pytest.raises(UserError, match="the detector asked only searches for given phrases"):
        DetectorTagger(GroundingConfig(), count=3, detector=Asked())


def test_command_prints_a_summary_per_split(root: Path, mobile: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "tags", "synthetic-ner", "--data.root", str(root), *mobile, "--count", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("image_texts_train.jsonl: 5 images, 5 with tags, 0 with given texts, 0 unreadable")
    assert len(lines) == 3
