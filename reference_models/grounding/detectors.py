"""Detectors behind one small interface: images and phrases in, scored boxes out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

from reference_models.config.grounding import GroundingConfig
from reference_models.data.samples import Region
from reference_models.errors import UserError
from reference_models.grounding.boxes import Box
from reference_models.hub import hub_weights
from reference_models.names import Registry

COCO = torchvision.models.detection.FasterRCNN_ResNet50_FPN_V2_Weights.DEFAULT.meta["categories"]
POSITIONS = ((1 / 6, 1 / 6), (0, 0), (1 / 3, 0), (0, 1 / 3), (1 / 3, 1 / 3))  # of crops 2/3 as wide and high


class Detector(Protocol):
    """What finds boxes.

    Attributes:
        name: as in `GroundingConfig.detector`.
        version: tells two detectors of that name apart: where the weights come from, and which ones they are.
        takes_phrases: whether it looks for phrases; if not, it is given none.
    """

    name: str
    version: str
    takes_phrases: bool

    def detect(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Box]]:
        """The boxes of each RGB image, in its pixels, in any order; they may overlap and reach beyond its edges."""
        ...


Loader = Callable[[GroundingConfig], Detector]
_DETECTORS: Registry[Loader] = Registry("detector")


def register_detector(name: str) -> Callable[[Loader], Loader]:
    """Make a function known that makes the detector of a name from the settings.

    Args:
        name: as in `grounding.detector`.

    Returns:
        A decorator that gives the function back.

    Raises:
        ValueError: another detector has this name.
    """

    def add(load: Loader) -> Loader:
        _DETECTORS.add(name, load)
        return load

    return add


def list_detectors() -> list[str]:
    """The names of all detectors, in the order of the alphabet."""
    return list(_DETECTORS)


def load_detector(config: GroundingConfig) -> Detector:
    """The detector of the settings, with its weights, on the first accelerator found.

    Raises:
        UserError: there is none of that name, or its weights are missing, or of something else.
    """
    return _DETECTORS.find(config.detector)(config)


@register_detector("grounding-dino")
@register_detector("owlv2")
def load_zero_shot(config: GroundingConfig) -> Detector:
    """A detector that looks for phrases, see `zero_shot`."""
    from reference_models.grounding import zero_shot

    return zero_shot.load_zero_shot(config)


@register_detector("centre")
def load_centre(config: GroundingConfig) -> CentreDetector:
    """Boxes by position."""
    return CentreDetector()


@register_detector("annotations")
def load_annotations(config: GroundingConfig) -> AnnotationDetector:
    """The boxes that came with the data."""
    return AnnotationDetector()


@register_detector("torchvision")
def load_torchvision(config: GroundingConfig) -> TorchvisionDetector:
    """Faster R-CNN (ResNet-50 FPN v2), its COCO weights from torchvision's hub or a local file.

    Raises:
        UserError: the hub's file cannot be had, or the local one is no state dict of this model. Nothing in either is
            executed.
    """
    if config.weights == "default":
        weights = torchvision.models.detection.FasterRCNN_ResNet50_FPN_V2_Weights.DEFAULT
        state = hub_weights(weights, "grounding.weights")
        model = torchvision.models.detection.fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
        model.load_state_dict(state)
        return TorchvisionDetector(model, f"torchvision {torchvision.__version__}, {weights}", config.threshold)
    path = Path(config.weights)
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged pickle can fail with almost any exception
        raise UserError(
            f"{path}: expected the weights of torchvision's fasterrcnn_resnet50_fpn_v2 (a state dict); it is missing, "
            f"damaged, or something else ({str(error).splitlines()[0]})"
        ) from error
    return TorchvisionDetector(model, f"torchvision {torchvision.__version__}, {digest([path])}", config.threshold)


def digest(files: Sequence[Path]) -> str:
    """The names of weight files with twelve hex digits that tell their contents apart."""
    names = []
    for path in files:
        with path.open("rb") as file:
            names.append(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()[:12]}")
    return ", ".join(names)


def accelerator() -> torch.device:
    """The first accelerator found, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


class CentreDetector:
    """Five boxes by position, the middle first, then the corners; each two thirds as wide and high as the image."""

    name, version, takes_phrases = "centre", "1", False

    def detect(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Box]]:
        """The same five for every image; their scores, 1 down to 0.6, only keep their order."""
        return [
            [
                Box(x * w, y * h, (x + 2 / 3) * w, (y + 2 / 3) * h, score=1 - 0.1 * rank)
                for rank, (x, y) in enumerate(POSITIONS)
            ]
            for w, h in (image.size for image in images)
        ]


class AnnotationDetector:
    """The boxes that people marked, of data whose samples have `regions`."""

    name, version, takes_phrases = "annotations", "1", False

    def detect(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Box]]:
        """Nothing: what was marked does not stand in the images, see `boxes`."""
        return [[] for _ in images]

    def boxes(self, regions: Sequence[Region], width: int, height: int) -> list[Box]:
        """The boxes of regions in pixels of an image of width x height, in their order."""
        return [Box(r.left * width, r.top * height, r.right * width, r.bottom * height, 1.0, r.phrase) for r in regions]


class TorchvisionDetector:
    """What stands out, whatever it is: the boxes of a torchvision detection model, with their classes as labels.

    Args:
        model: gives `boxes` (N, 4), `scores` (N,) and `labels` (N,) for each image of a list, as torchvision's do.
        version: see `Detector`.
        threshold: least score of a box.
    """

    name, takes_phrases = "torchvision", False

    def __init__(self, model: nn.Module, version: str, threshold: float) -> None:
        self.model = model.eval().to(accelerator())
        self.version = version
        self.threshold = threshold

    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Box]]:
        """See `Detector`."""
        outputs = self.model([(pil_to_tensor(image) / 255).to(accelerator()) for image in images])
        return [
            [
                Box(left, top, right, bottom, score, label=COCO[label])
                for (left, top, right, bottom), score, label in zip(
                    *(output[name].tolist() for name in ("boxes", "scores", "labels")), strict=True
                )
                if score >= self.threshold
            ]
            for output in outputs
        ]
