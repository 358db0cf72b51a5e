"""Hypothesis strategies: batches of every kind, with ragged masks and every kind of target."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from attnmixup.options import MixupOptions


def can_trace_gamma() -> bool:
    """Return whether this torch can trace gamma sampling, as torch.compile and the meta device need."""
    try:
        return torch._standard_gamma(torch.ones(1, device="meta")).is_meta
    except NotImplementedError:
        return False


traced = pytest.mark.skipif(not can_trace_gamma(), reason="this torch cannot trace the draw of a gamma variable")
PAPER = MixupOptions(
    sample_ratio=0.7,
    transformed_ratio=0.6,
    alpha=1.0,
    sampling="random",
    partner="uniform",
    neighbours=3,
    lam="sample",
    final="sample",
    averaging="together",
    counts="round",
)
SCORES = ("additive", "shared", "dot", "cosine")
LABEL_KINDS = ("class", "soft", "multilabel", "regression", "tags")
CLASSES = 3
DIM = 6


@dataclass(frozen=True)
class Case:
    """A batch to mix."""

    embeddings: Tensor
    targets: Tensor
    mask: Tensor | None
    kind: str
    generator: torch.Generator


sizes = st.integers(1, 9)
lengths = st.integers(1, 7)
seeds = st.integers(0, 2**32)
ratios = st.floats(0, 1)


def tensors(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@st.composite
def masks(draw: st.DrawFn, size: int, length: int) -> Tensor:
    """Right-padded masks with rows of any length, including empty rows."""
    counts = draw(st.lists(st.integers(0, length), min_size=size, max_size=size))
    return torch.arange(length) < torch.tensor(counts)[:, None]


def targets_of(kind: str, size: int, length: int, generator: torch.Generator) -> Tensor:
    if kind == "class":
        return torch.randint(CLASSES, (size,), generator=generator)
    if kind == "soft":
        return torch.rand(size, CLASSES, dtype=torch.float64, generator=generator).softmax(-1)
    if kind == "multilabel":
        return torch.randint(2, (size, CLASSES), generator=generator).double()
    if kind == "regression":
        return torch.randn(size, dtype=torch.float64, generator=generator)
    return torch.randint(CLASSES, (size, length), generator=generator)


@st.composite
def cases(draw: st.DrawFn, kinds: tuple[str, ...] = LABEL_KINDS) -> Case:
    """Batches of vectors or sequences in double precision; tags always have sequences."""
    size, kind = draw(sizes), draw(st.sampled_from(kinds))
    # If a sample had as many labels as tokens, they would be read as one value per token.
    length = draw(lengths.filter(lambda count: kind not in ("soft", "multilabel") or count != CLASSES))
    generator = torch.Generator().manual_seed(draw(seeds))
    by_token = kind == "tags" or draw(st.booleans())
    shape = (size, length, DIM) if by_token else (size, DIM)
    embeddings = torch.randn(shape, dtype=torch.float64, generator=generator)
    mask = draw(masks(size, length)) if by_token else None
    return Case(embeddings, targets_of(kind, size, length, generator), mask, kind, generator)
