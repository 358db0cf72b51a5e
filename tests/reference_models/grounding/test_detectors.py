"""Tiny detectors with random weights: boxes compared with reference implementations, and errors for wrong weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from transformers import (
    CLIPTokenizer,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
)

from examples.tiny_grounding_dino import LETTERS, save_grounding_dino
from reference_models.config.grounding import GroundingConfig
from reference_models.data.samples import Region
from reference_models.errors import UserError
from reference_models.grounding.boxes import Box
from reference_models.grounding.detectors import (
    AnnotationDetector,
    CentreDetector,
    TorchvisionDetector,
    load_detector,
    register_detector,
)
from reference_models.grounding.posts import PostGrounder
from reference_models.grounding.zero_shot import GroundingDinoDetector


def save_owlv2(folder: Path) -> None:
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(words), "max_position_embeddings": 16, "eos_token_id": len(words) - 1, **small}
    config = Owlv2Config(
        text_config=text, vision_config={"image_size": 32, "patch_size": 8, **small}, projection_dim=16
    )
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    tokenizer = CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])
    Owlv2Processor(Owlv2ImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)


SAVE: dict[str, Callable[[Path], None]] = {"grounding-dino": save_grounding_dino, "owlv2": save_owlv2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp(name) for name in SAVE}
    for name, folder in folders.items():
        torch.manual_seed(0)
        SAVE[name](folder)
    return folders


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(width + seed))
    return Image.fromarray(pixels.byte().numpy())


def bounds(boxes: list[Box]) -> Tensor:
    return torch.tensor([(*box.bounds(), box.score) for box in boxes])


@pytest.mark.parametrize("name", SAVE)
def test_boxes_do_not_depend_on_the_batch(folders: dict[str, Path], name: str) -> None:
    detector = load_detector(GroundingConfig(detector=name, weights=str(folders[name]), threshold=0))
    images = [noise(60, 60, seed) for seed in range(3)]
    phrases = [["a dog", "c. at?", "house"], [], ["fox"]]
    found = detector.detect(images, phrases)
    assert found[1] == []
    assert {box.phrase for box in found[2]} == {"fox"}
    assert {box.phrase for box in found[0]} <= set(phrases[0])
    for index in (0, 2):
        (alone,) = detector.detect([images[index]], [phrases[index]])
        torch.testing.assert_close(bounds(found[index]), bounds(alone), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", SAVE)
def test_boxes_match_transformers_post_processing(folders: dict[str, Path], name: str) -> None:
    detector: Any = load_detector(GroundingConfig(detector=name, weights=str(folders[name]), threshold=0))
    image = noise(70, 50)
    (found,) = detector.detect([image], [["dog", "cat"]])
    text = ["dog. cat. "] if name == "grounding-dino" else [["dog", "cat"]]
    inputs = detector.processor(images=[image], text=text, return_tensors="pt").to(detector.model.device)
    with torch.inference_mode():
        outputs = detector.model(**inputs)
    (expected,) = detector.processor.post_process_grounded_object_detection(
        outputs, threshold=0, target_sizes=[(image.height, image.width)]
    )
    torch.testing.assert_close(bounds(found)[:, :4], expected["boxes"].cpu(), atol=1e-3, rtol=1e-4)
    if name == "owlv2":
        torch.testing.assert_close(bounds(found)[:, 4], expected["scores"].cpu())
        assert [box.phrase for box in found] == [["dog", "cat"][label] for label in expected["labels"].tolist()]
    kept = load_detector(GroundingConfig(detector=name, weights=str(folders[name]), threshold=0.9))
    assert kept.detect([image], [["dog", "cat"]]) == [[box for box in found if box.score >= 0.9]]


def test_phrase_score_is_the_maximum_over_its_tokens(folders: dict[str, Path]) -> None:
    loaded: Any = load_detector(GroundingConfig(detector="grounding-dino", weights=str(folders["grounding-dino"])))

    class Fixed(nn.Module):
        """Model that gives token n of every text the score n / 100."""

        config = loaded.model.config
        device = torch.device("cpu")

        def forward(self, **inputs: Tensor) -> Any:
            length = self.config.max_text_len
            probabilities = torch.arange(length)[None, None].expand(len(inputs["input_ids"]), 1, length) / 100
            boxes = torch.tensor([0.5, 0.5, 0.2, 0.4]).expand(len(inputs["input_ids"]), 1, 4)
            return type("Output", (), {"logits": probabilities.logit(), "pred_boxes": boxes})

    detector = GroundingDinoDetector(Fixed(), loaded.processor, "1", 0)
    # [CLS] d ##o ##g . a ##b . e . [SEP]: the highest score of "dog" is at token 3, of "ab" at 6, of "e" at 8
    ((scores, box),) = detector.find([noise(100, 50)], [["dog", "ab", "e"]])
    torch.testing.assert_close(scores.cpu(), torch.tensor([[0.03, 0.06, 0.08]]))
    torch.testing.assert_close(box.cpu(), torch.tensor([[40.0, 15.0, 60.0, 35.0]]))
    # a full stop inside a phrase does not split it, and a phrase of full stops only has the score 0
    ((scores, _),) = detector.find([noise(100, 50)], [["d.og", "...", "x" * 40, "late"]])
    assert scores.cpu()[0].tolist() == pytest.approx([0.03, 0.0, 0.22, 0.0])


def test_version_depends_on_the_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    versions = {load_detector(GroundingConfig(detector="owlv2", weights=str(folders["owlv2"]))).version}
    torch.manual_seed(1)
    save_owlv2(tmp_path)
    versions.add(load_detector(GroundingConfig(detector="owlv2", weights=str(tmp_path))).version)
    assert len(versions) == 2
    assert all("model.safetensors" in version for version in versions)


def test_wrong_weights_raise(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"grounding\.weights: expected a grounding-dino model, .* is owlv2"):
        load_detector(GroundingConfig(detector="grounding-dino", weights=str(folders["owlv2"])))
    with pytest.raises(UserError, match=r"grounding\.weights: .* local folder of a owlv2 model .*cannot be loaded"):
        load_detector(GroundingConfig(detector="owlv2", weights=str(tmp_path)))


def small_faster_rcnn(**_: Any) -> FasterRCNN:
    class Backbone(nn.Sequential):
        out_channels = 8

    backbone = Backbone(nn.Conv2d(3, 8, 3, stride=8), nn.ReLU())
    anchors = torchvision.models.detection.anchor_utils.AnchorGenerator(sizes=((16, 32),), aspect_ratios=((1.0,),))
    pool = torchvision.ops.MultiScaleRoIAlign(featmap_names=["0"], output_size=3, sampling_ratio=2)
    return FasterRCNN(
        backbone, 3, min_size=64, max_size=96, rpn_anchor_generator=anchors, box_roi_pool=pool, box_score_thresh=0.0
    )


def test_faster_rcnn_loads_weights_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models.detection, "fasterrcnn_resnet50_fpn_v2", small_faster_rcnn)
    torch.manual_seed(0)
    model, path = small_faster_rcnn(), tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    detector = load_detector(GroundingConfig(detector="torchvision", weights=str(path), threshold=0))
    images = [noise(60, 40), noise(40, 40)]
    found = detector.detect(images, [[], []])
    assert found == TorchvisionDetector(model, "same", 0).detect(images, [[], []])
    assert all(boxes and all(box.phrase is None for box in boxes) for boxes in found)
    least = sorted(box.score for box in found[0])[len(found[0]) // 2]
    kept = TorchvisionDetector(model, "same", least).detect(images, [[], []])
    assert kept == [[box for box in boxes if box.score >= least] for boxes in found]

    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(
        UserError, match=r"weights\.pth: expected the weights of torchvision's fasterrcnn_resnet50_fpn_v2"
    ):
        load_detector(GroundingConfig(detector="torchvision", weights=str(path)))


def test_centre_detector_returns_centre_and_corner_boxes() -> None:
    ((middle, *corners),) = CentreDetector().detect([noise(60, 30)], [[]])
    assert middle.bounds() == pytest.approx((10, 5, 50, 25))
    assert [box.score for box in corners] == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert {(round(box.left), round(box.top)) for box in corners} == {(0, 0), (20, 0), (0, 10), (20, 10)}
    assert {(round(box.right), round(box.bottom)) for box in corners} == {(40, 20), (60, 20), (40, 30), (60, 30)}


def test_unknown_or_duplicate_detector_raises() -> None:
    with pytest.raises(UserError, match=r"unknown detector 'dino', expected one of annotations, "):
        load_detector(GroundingConfig(detector="dino"))
    with pytest.raises(ValueError, match="the detector 'centre' is already registered"):
        register_detector("centre")(lambda config: CentreDetector())


def test_annotated_boxes_scale_with_the_image() -> None:
    detector = load_detector(GroundingConfig(detector="annotations"))
    assert isinstance(detector, AnnotationDetector)
    assert detector.boxes([Region(0.1, 0.25, 1.0, 0.5, "a girl")], 200, 40) == [Box(20, 10, 200, 20, 1.0, "a girl")]
    assert detector.detect([Image.new("RGB", (4, 4))], [[]]) == [[]]
    with pytest.raises(UserError, match="which a post does not have; choose another detector"):
        PostGrounder(False, GroundingConfig(detector="annotations"), Path("crops"))
