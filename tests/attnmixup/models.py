"""A small model with both modules, and a batch for it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnmixup import AttnMixup, SemanticKLLoss
from tests.attnmixup.strategies import DIM

KINDS = ("vectors", "sequences")


class Model(nn.Module):
    """Both modules, for vectors or sequences."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.mixer = AttnMixup(DIM, heads=2, **options)
        self.semantic = SemanticKLLoss(DIM, 4)
        self.head = nn.Linear(DIM, 3)

    def forward(self, embeddings: Tensor, targets: Tensor, image: Tensor, mask: Tensor | None = None) -> Tensor:
        mixed = self.mixer(embeddings, targets, mask=mask)
        loss: Tensor = mixed.loss(F.cross_entropy, self.head(mixed.embeddings))
        loss = loss + 0.5 * self.semantic(embeddings, image, mask=mask)
        return loss


def batch_of(kind: str, dtype: torch.dtype = torch.float32, size: int = 5, length: int = 4) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(size, 4, generator=generator).to(dtype)
    if kind == "vectors":
        embeddings = torch.randn(size, DIM, generator=generator).to(dtype)
        return embeddings.requires_grad_(), torch.arange(size) % 3, image
    embeddings = torch.randn(size, length, DIM, generator=generator).to(dtype).requires_grad_()
    mask = torch.arange(length) < torch.tensor([4, 1, 3, 2, 4])[:size, None]
    return embeddings, torch.randint(3, (size, length), generator=generator), image, mask
