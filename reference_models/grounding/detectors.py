"""Object detectors with a common interface: images and phrases in, scored boxes out."""

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
POSITIONS = ((1 / 6, 1 / 6), (0, 0), (1 / 3, 0), (0, 1 / 3), (1 / 3, 1 / 3))  # top left corners of crops, side 2/3


class Detector(Protocol):
    """Interface of object detectors.

    Attributes:
        name: Name, as in `GroundingConfig.detector`.
        version: Source and identity of the weights, to distinguish detectors with the same name.
        takes_phrases: Whether it searches for phrases. If not, it receives none.
    """

    name: str
    version: str
    takes_phrases: bool

    def detect(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Box]]:
        """Detect boxes in each RGB image, in pixels, in any order; they may overlap and extend beyond the image."""
        ...


Loader = Callable[[GroundingConfig], Detector]
_DETECTORS: Registry[Loader] = Registry("detector")


def register_detector(name: str) -> Callable[[Loader], Loader]:
    """Register a function that creates a detector from the settings.

    Args:
        name: Name for the setting `grounding.detector`.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        ValueError: If another detector has this name.
    """

    def add(load: Loader) -> Loader:
        _DETECTORS.add(name, load)
        return load

    return add


def list_detectors() -> list[str]:
    """Return the names of all detectors in alphabetical order."""
    return list(_DETECTORS)


def load_detector(config: GroundingConfig) -> Detector:
    """Load the detector named in the settings, with its weights, on the first accelerator found.

    Raises:
        UserError: If the name is unknown, or the weights are missing or belong to another model.
    """
    return _DETECTORS.find(config.detector)(config)


@register_detector("grounding-dino")
@register_detector("owlv2")
def load_zero_shot(config: GroundingConfig) -> Detector:
    """Load a detector that searches for phrases, see `zero_shot`."""
    from reference_models.grounding import zero_shot

    return zero_shot.load_zero_shot(config)


@register_detector("centre")
def load_centre(config: GroundingConfig) -> CentreDetector:
    """Create the detector with five fixed boxes."""
    return CentreDetector()


@register_detector("annotations")
def load_annotations(config: GroundingConfig) -> AnnotationDetector:
    """Create the detector that returns the annotated boxes of the data."""
    return AnnotationDetector()


@register_detector("torchvision")
def load_torchvision(config: GroundingConfig) -> TorchvisionDetector:
    """Load Faster R-CNN (ResNet-50 FPN v2) with COCO weights from torchvision's hub, or weights from a local file.

    Raises:
        UserError: If the weights cannot be downloaded, or the local file is not a state dict of this model. Nothing in
            these files is executed.
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
            f"{path}: expected the weights of torchvision's fasterrcnn_resnet50_fpn_v2 (a state dict); the file is "
            f"missing, damaged, or something else ({str(error).splitlines()[0]})"
        ) from error
    return TorchvisionDetector(model, f"torchvision {torchvision.__version__}, {digest([path])}", config.threshold)


def digest(files: Sequence[Path]) -> str:
    """Return the names of weight files, each with the first twelve hex digits of its SHA-256."""
    names = []
    for path in files:
        with path.open("rb") as file:
            names.append(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()[:12]}")
    return ", ".join(names)


def accelerator() -> torch.device:
    """Return the first accelerator found, or the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


class CentreDetector:
    """Five fixed boxes, first the centre, then the corners; each two thirds of the width and height of the image."""

    name, version, takes_phrases = "centre", "1", False

    def detect(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Box]]:
        """Return the same five boxes for every image; the scores, 1 down to 0.6, only fix their order."""
        return [
            [
                Box(x * w, y * h, (x + 2 / 3) * w, (y + 2 / 3) * h, score=1 - 0.1 * rank)
                for rank, (x, y) in enumerate(POSITIONS)
            ]
            for w, h in (image.size for image in images)
        ]


class AnnotationDetector:
    """The annotated boxes of data whose samples have `regions`."""

    name, version, takes_phrases = "annotations", "1", False

    def detect(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Box]]:
        """Return no boxes, because the annotations are not in the images; see `boxes`."""
        return [[] for _ in images]

    def boxes(self, regions: Sequence[Region], width: int, height: int) -> list[Box]:
        """Convert regions to boxes in pixels of an image of width x height, in the same order."""
        return [Box(r.left * width, r.top * height, r.right * width, r.bottom * height, 1.0, r.phrase) for r in regions]


class TorchvisionDetector:
    """A torchvision detection model, which finds all objects of its classes and returns the classes as labels.

    Args:
        model: Torchvision detection model; returns `boxes` (N, 4), `scores` (N,) and `labels` (N,) for each image.
        version: See `Detector`.
        threshold: Minimum score of a box.
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
