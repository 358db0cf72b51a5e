"""Views of the images of a batch, stored only for the images that a system reads."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from reference_models.config import Slots, View

Objects = Literal["pooled", "grid", "both"]


@dataclass(frozen=True)
class ImageFeatures:
    """Views of the images of a batch.

    Attributes:
        rows: For each view, features (M, ...) of the M images in `seen`, in the same order.
        seen: For each view, a mask (B, images), True for these M images; the whole image comes before its crops.
        image: (B, D), embedding of the whole image for the semantic loss; None if that loss is not computed.
    """

    rows: dict[View, Tensor]
    seen: dict[View, Tensor]
    image: Tensor | None = None

    def padded(self, view: View) -> Tensor:
        """Return a view as (B, images, ...), with zeros for images that are not in `seen`."""
        rows, seen = self.rows[view], self.seen[view]
        padded = rows.new_zeros(*seen.shape, *rows.shape[1:])
        padded[seen] = rows
        return padded


def object_views(objects: Objects) -> dict[View, Slots]:
    """Return the views for `objects`: "pooled" vectors of the image and its crops, "grid" cells of the image, or both.

    Returns:
        For each view, the images that it covers.
    """
    views: dict[View, Slots] = {"pooled": "all", "grid": "whole"}
    return views if objects == "both" else {objects: views[objects]}
