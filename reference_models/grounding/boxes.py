"""Detected boxes, the selection of the best ones, and cropping."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

MAX_OVERLAP = 0.5  # intersection over union above which two boxes count as the same object
LEAST_SIDE = 4  # minimum side of a box in pixels


def select_boxes(boxes: Sequence["Box"], width: int, height: int, top: int) -> list["Box"]:
    """Select the `top` boxes with the highest scores, best first, clipped to the image and to whole pixels.

    A box is skipped if a side inside the image is below `LEAST_SIDE`, if a bound or its score is not finite, or if it
    overlaps a better box by more than `MAX_OVERLAP`. For equal scores, the earlier box comes first.
    """
    kept: list[Box] = []
    for box in sorted((box for box in boxes if box.is_finite()), key=lambda box: -box.score):
        inside = box.clip(width, height)
        if (
            len(kept) < top
            and inside.side() >= LEAST_SIDE
            and all(overlap(inside, other) <= MAX_OVERLAP for other in kept)
        ):
            kept.append(inside)
    return kept


def overlap(first: "Box", second: "Box") -> float:
    """Compute the intersection over union of two non-empty boxes, 0 to 1."""
    width = min(first.right, second.right) - max(first.left, second.left)
    height = min(first.bottom, second.bottom) - max(first.top, second.top)
    shared = max(width, 0) * max(height, 0)
    return shared / (first.area() + second.area() - shared)


def cut(image: Image.Image, box: "Box", size: int) -> Image.Image:
    """Crop a box with integer bounds from an image and resize it to size x size (bilinear, antialiased)."""
    region = image.crop((int(box.left), int(box.top), int(box.right), int(box.bottom)))
    return region.resize((size, size), Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels (y points down) with the confidence of the detector and the phrase or class found there.

    Attributes:
        left, top, right, bottom: Bounds; right and bottom are exclusive.
        score: Confidence, 0 to 1.
        phrase: Phrase that the detector found. None from a detector that takes no phrases.
        label: Class of the object. None from a detector without classes.
    """

    left: float
    top: float
    right: float
    bottom: float
    score: float
    phrase: str | None = None
    label: str | None = None

    def bounds(self) -> tuple[float, float, float, float]:
        """Return (left, top, right, bottom)."""
        return self.left, self.top, self.right, self.bottom

    def side(self) -> float:
        """Return the shorter side in pixels; negative if right < left or bottom < top."""
        return min(self.right - self.left, self.bottom - self.top)

    def area(self) -> float:
        """Return the area in square pixels."""
        return (self.right - self.left) * (self.bottom - self.top)

    def is_finite(self) -> bool:
        """Return whether the bounds and the score are all finite."""
        return all(map(math.isfinite, (*self.bounds(), self.score)))

    def clip(self, width: int, height: int) -> "Box":
        """Clip the box to an image of width x height and round it outwards to whole pixels."""
        return replace(
            self,
            left=max(math.floor(self.left), 0),
            top=max(math.floor(self.top), 0),
            right=min(math.ceil(self.right), width),
            bottom=min(math.ceil(self.bottom), height),
        )
