"""The settings of `i2srm data crops`."""

from dataclasses import dataclass

from reference_models.errors import UserError


@dataclass(frozen=True)
class GroundingConfig:
    """How object crops are made.

    Args:
        detector: "grounding-dino" and "owlv2" look for the phrases of the text, "torchvision" (Faster R-CNN) for
            whatever stands out, "centre" takes five crops by position and needs no weights, and "annotations" takes
            the boxes that came with the data; or the name of a registered detector.
        weights: for grounding-dino and owlv2, a hub name or local folder; for torchvision, a local file; "default"
            takes the detector's usual ones from the hub.
        phrases: spaCy pipeline (name or folder) that finds the noun phrases of a tweet; relations have their entities.
        threshold: least score of a box, 0 to 1.
        top: crops of a sample at most, those with the highest score.
        batch_size: images that the detector sees at once.
        size: side of a crop in pixels.
        overwrite: replace a crop dictionary that was made by others or with other settings.
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
