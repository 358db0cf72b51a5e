"""A model and a batch for every kind of global batch, and the samples of one rank."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnmixup import AttnMixup, MixedBatch

Samples = tuple[Tensor, Tensor, Tensor | None, Tensor]
CASES: dict[str, dict[str, Any]] = {
    "vectors": {},
    "sequences": {},
    "tokens": {"sequence": "position"},
    "release": {"preset": "release"},
    "all rows": {"final": "weight"},
    "other class": {"partner": "other_class"},
    "no transformed rows": {"transformed_ratio": 0.0},
    "derangement": {"partner": "derangement"},
    "recommended": {"preset": "recommended"},
    "tags": {"preset": "recommended"},
    "nearest": {"partner": "nearest"},
    "an empty rank": {},
    "strength 0": {},
}
# Number of samples of each rank.
SPLITS = {"sequences": (3, 2), "all rows": (4, 1), "an empty rank": (5, 0)}


class Model(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.mixer = AttnMixup(6, heads=2, **{"dropout": 0.0} | options)

    def forward(
        self, inputs: Tensor, targets: Tensor, mask: Tensor | None, group: Tensor, generator: torch.Generator
    ) -> tuple[MixedBatch, Tensor, Tensor]:
        embeddings = torch.tanh(self.encoder(inputs))
        mixed = self.mixer(embeddings, targets, mask=mask, group=group, generator=generator)
        outputs = self.head(mixed.embeddings)
        return mixed, outputs, mixed.loss(F.cross_entropy, outputs)


def model_of(case: str, **options: Any) -> Model:
    torch.manual_seed(0)
    model = Model(**CASES[case], **options).double()
    if case == "strength 0":
        model.mixer.set_strength(0.0)
    return model


def batch_of(case: str) -> Samples:
    generator = torch.Generator().manual_seed(1)
    group = torch.tensor([0, 0, 1, 1, 0])
    if case not in ("sequences", "tokens", "tags"):
        return torch.randn(5, 4, generator=generator).double(), torch.arange(5) % 3, None, group
    inputs, targets = torch.randn(5, 4, 4, generator=generator).double(), torch.randint(3, (5, 4), generator=generator)
    return inputs, targets, torch.arange(4) < torch.tensor([4, 1, 3, 2, 1])[:, None], group


def part_of(case: str, rank: int) -> Samples:
    """Return the samples of one rank, padded to the longest of the rank."""
    inputs, targets, mask, group = batch_of(case)
    first = SPLITS.get(case, (3, 2))[0]
    rows = slice(0, first) if rank == 0 else slice(first, 5)
    if mask is None:
        return inputs[rows], targets[rows], None, group[rows]
    longest = int(mask[rows].sum(1).max())
    return inputs[rows, :longest], targets[rows, :longest], mask[rows, :longest], group[rows]


def train(model: nn.Module, batch: Samples) -> dict[str, Any]:
    mixed, outputs, loss = model(*batch, torch.Generator().manual_seed(2))
    loss.backward()
    rows, labels = mixed.embeddings.detach(), [mixed.targets_a, mixed.targets_b]
    if mixed.mask is not None:
        # The content of the padding depends on the length of the longest sample.
        rows = rows.masked_fill(~mixed.mask.unsqueeze(-1), 0)
        labels = [label.masked_fill(~mask, 0) for label, mask in zip(labels, (mixed.mask_a, mixed.mask_b), strict=True)]
    return {
        "loss": loss.detach(),
        "loss of the same targets": mixed.loss(F.cross_entropy, outputs.detach(), targets=batch[1]),
        "loss of soft targets": mixed.loss(
            F.cross_entropy, outputs.detach(), targets=F.one_hot(batch[1], outputs.shape[-1]).to(outputs.dtype)
        ),
        "gradients": [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in model.parameters()
        ],
        "rows": rows,
        "labels": torch.stack(labels, dim=1),
        "lam": mixed.lam,
        "origin": mixed.origin,
        "num_originals": mixed.num_originals,
        "num_synthetic": mixed.num_synthetic,
    }
