"""Grounding settings: how object crops are made, as for `i2srm data crops`."""

from dataclasses import dataclass

from reference_models.errors import UserError


@dataclass(frozen=True)
class GroundingConfig:
    """How object crops are made.

    Args:
        detector: "grounding-dino" and "owlv2" detect the phrases of the sentence; "torchvision" (Faster R-CNN) detects
            objects without phrases; "centre" takes five crops by position and needs no weights; "annotations" uses the
            boxes of the data set; or the name of a registered detector.
        weights: Hub name or local folder for grounding-dino and owlv2, local file for torchvision; "default" for the
            standard weights of the detector, from the Hub.
        phrases: spaCy pipeline (name or folder) that extracts the noun phrases of a sentence. Relations use their
            entities instead.
        threshold: Minimum score of a box, from 0 to 1.
        top: Maximum number of crops per sample; those with the highest scores are kept.
        batch_size: Number of images per detector batch.
        size: Side length of a crop in pixels.
        overwrite: Replace a crop dictionary that was made with other settings or by another program.
    """

    detector: str = "grounding-dino"
    weights: str = "default"
    phrases: str = "en_core_web_sm"
    threshold: float = 0.1
    top: int = 3
    batch_size: int = 8
    size: int = 224
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"grounding.threshold must be from 0 to 1, got {self.threshold}")
        for name in ("top", "batch_size", "size"):
            if getattr(self, name) < 1:
                raise UserError(f"grounding.{name} must be 1 or more, got {getattr(self, name)}")
