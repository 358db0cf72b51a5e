"""Subsets of the training rows, few or long-tailed, that a seed draws. They are the same for all arms."""

import torch
from torch import Tensor

from reference_models.errors import UserError

KEYS = ("per_class", "share", "rows", "tail")


def draw_subset(rows: Tensor, classes: Tensor | None, subset: dict[str, float], seed: int) -> Tensor:
    """Draw the training rows of a seed.

    Args:
        rows: Training rows to draw from, shape ``(N,)``.
        classes: Class of each row, shape ``(N,)``; None if a row has several classes.
        subset: Empty for all rows, or one of ``per_class`` (number of rows of each class), ``share`` (share of all
            rows), ``rows`` (number of rows) and ``tail``. With ``tail``, class k of K keeps
            ``tail ** -(k / (K - 1))`` times the number of rows of the rarest class, so the most frequent class has
            ``tail`` times the rows of the rarest.
        seed: Seed of the draw.

    Returns:
        The drawn rows, shape ``(M,)``.

    Raises:
        UserError: If the subset is unknown, needs classes that are missing, or asks for more rows than there are.
    """
    if len(subset) > 1 or not set(subset) <= set(KEYS):
        raise UserError(f"expected a subset with one of {', '.join(KEYS)}, got {subset}")
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(rows), generator=generator)
    if not subset:
        return rows
    [(key, value)] = subset.items()
    if key in ("share", "rows"):
        count = round(value * len(rows)) if key == "share" else int(value)
        if not 1 <= count <= len(rows):
            raise UserError(f"{key}: {value} asks for {count} of {len(rows)} training rows; expected 1 to {len(rows)}")
        return rows[shuffled[:count]]
    if classes is None:
        raise UserError(f"{key}: {value} needs one class for each row")
    counts = torch.bincount(classes)
    fewest, last = int(counts[counts > 0].min()), max(len(counts) - 1, 1)
    if key == "per_class" and fewest < value:
        raise UserError(f"per_class: {value} asks for more rows than the {fewest} of the rarest class")
    kept = []
    for label in range(len(counts)):
        of_class = shuffled[classes[shuffled] == label]
        keep = value if key == "per_class" else max(round(fewest * value ** -(label / last)), 1)
        kept.append(of_class[: int(keep)])
    return rows[torch.cat(kept)]
