"""Boxes that a detector found, the choice of the most salient ones, and the crops cut along them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

MAX_OVERLAP = 0.5  # intersection over union above which two boxes show the same thing
LEAST_SIDE = 4  # pixels; a narrower box shows nothing


def select_boxes(boxes: Sequence["Box"], width: int, height: int, top: int) -> list["Box"]:
    """The `top` boxes with the highest scores, best first, on whole pixels and inside an image of width x height.

    Boxes with a side below `LEAST_SIDE` inside the image, or with a bound or score that is no finite number, are left
    out; so is a box that overlaps a better one by more than `MAX_OVERLAP`. Of equal scores the earlier one comes first.
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
    """Intersection over union of two boxes with an area, 0 to 1."""
    width = min(first.right, second.right) - max(first.left, second.left)
    height = min(first.bottom, second.bottom) - max(first.top, second.top)
    shared = max(width, 0) * max(height, 0)
    return shared / (first.area() + second.area() - shared)


def cut(image: Image.Image, box: "Box", size: int) -> Image.Image:
    """The part of an image inside a box on whole pixels, squashed to size x size (bilinear, antialiased)."""
    region = image.crop((int(box.left), int(box.top), int(box.right), int(box.bottom)))
    return region.resize((size, size), Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, y downwards, with how sure the detector is and the phrase it found there.

    Attributes:
        left, top, right, bottom: bounds; right and bottom are not included.
        score: 0 to 1.
        phrase: None from a detector that takes no phrases.
        label: the class of what is there; None from a detector that knows no classes.
    """

    left: float
    top: float
    right: float
    bottom: float
    score: float
    phrase: str | None = None
    label: str | None = None

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        return self.left, self.top, self.right, self.bottom

    def side(self) -> float:
        """The shorter one, in pixels; negative if the right is left of the left, or the bottom above the top."""
        return min(self.right - self.left, self.bottom - self.top)

    def area(self) -> float:
        """In square pixels."""
        return (self.right - self.left) * (self.bottom - self.top)

    def is_finite(self) -> bool:
        """Whether every bound and the score is a finite number."""
        return all(map(math.isfinite, (*self.bounds(), self.score)))

    def clip(self, width: int, height: int) -> "Box":
        """The smallest box on whole pixels around this one's part inside an image of width x height."""
        return replace(
            self,
            left=max(math.floor(self.left), 0),
            top=max(math.floor(self.top), 0),
            right=min(math.ceil(self.right), width),
            bottom=min(math.ceil(self.bottom), height),
        )
