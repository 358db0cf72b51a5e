"""Views of the images of a batch, of those images alone that are there."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from reference_models.config import Slots, View

Objects = Literal["pooled", "grid", "both"]


@dataclass(frozen=True)
class ImageFeatures:
    """Views of the images of a batch.

    Attributes:
        rows: of each view (M, ...), the M images that were looked at, in the order of `seen`.
        seen: of each view (B, images), True for those M; the whole image comes before its crops.
        image: (B, D), the embedding of the whole image for the semantic loss; None where no loss is computed.
    """

    rows: dict[View, Tensor]
    seen: dict[View, Tensor]
    image: Tensor | None = None

    def padded(self, view: View) -> Tensor:
        """A view as (B, images, ...), with zeros where none was looked at."""
        rows, seen = self.rows[view], self.seen[view]
        padded = rows.new_zeros(*seen.shape, *rows.shape[1:])
        padded[seen] = rows
        return padded


def object_views(objects: Objects) -> dict[View, Slots]:
    """The views that hold "pooled" vectors of the image and its crops, the cells of the whole image's "grid", or both.

    Returns:
        Each view with the images that it is of.
    """
    views: dict[View, Slots] = {"pooled": "all", "grid": "whole"}
    return views if objects == "both" else {objects: views[objects]}
