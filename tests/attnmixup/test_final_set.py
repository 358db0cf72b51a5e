"""The final set: the unmixed batch, the rows of H* that a plan uses, and the share of each rank."""

from dataclasses import replace

import pytest
import torch

from attnmixup import Origin, distributed, functional
from attnmixup.batch import Batch
from attnmixup.final_set import final_set, unmixed, used_rows
from attnmixup.sampling import MixupPlan
from tests.attnmixup.strategies import PAPER

HALVES = replace(PAPER, sample_ratio=0.5, transformed_ratio=0.5)
MASK = torch.tensor([[True, True], [True, False], [False, False], [True, True]])


def batch_of(device: str = "cpu") -> Batch:
    tags = torch.tensor([[0, 1], [2, -100], [-100, -100], [1, 0]], device=device)
    embeddings = torch.arange(16.0, device=device).reshape(4, 2, 2)
    return Batch(embeddings, tags, MASK.to(device), None, torch.arange(4, device=device))


def plan_of(
    transformed: list[int], first: list[int], second: list[int], device: str = "cpu", size: int = 4
) -> MixupPlan:
    numbers = (torch.tensor(rows, dtype=torch.long, device=device) for rows in (transformed, first, second))
    return MixupPlan(*numbers, torch.linspace(0.25, 0.75, len(first), device=device), size)


def test_unmixed_batch_keeps_its_tensors() -> None:
    batch = batch_of()
    mixed = unmixed(batch)
    assert mixed.embeddings is batch.embeddings
    assert mixed.targets_a is mixed.targets_b is batch.targets
    assert mixed.mask is mixed.mask_a is mixed.mask_b is batch.mask
    assert mixed.lam.tolist() == [1.0] * 4
    torch.testing.assert_close(mixed.weight, torch.tensor([1 / 3, 1 / 3, 0, 1 / 3]))
    assert mixed.origin.tolist() == [Origin.ORIGINAL] * 4
    assert mixed.index_a.tolist() == mixed.index_b.tolist() == [0, 1, 2, 3]
    assert (mixed.num_originals, mixed.num_synthetic) == (4, 0)
    nothing = unmixed(Batch(torch.zeros(2, 3), None, torch.zeros(2) > 0, None, None))
    assert nothing.weight.tolist() == [0.0, 0.0]


def test_final_set_stays_on_device_of_batch() -> None:
    batch, plan = batch_of("meta"), plan_of([1], [0, 7], [5, 2], "meta")
    share = distributed.share_of(plan, [3, 1], distributed.GroupReference(), rank=0)
    rows = used_rows(plan)
    assert rows.shape == (4,)
    whole = final_set(batch, batch.embeddings, rows, plan, HALVES, torch.tensor(1.0))
    part = final_set(batch, batch.embeddings, rows, plan, HALVES, torch.tensor(1.0), share=share)
    for mixed in (unmixed(batch), whole, part):
        assert all(value.is_meta for value in vars(mixed).values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize(
    ("transformed", "first", "second", "used"),
    [
        ([], [], [], []),
        ([2], [], [], [2]),
        ([], [0, 1], [2, 3], []),
        ([], [4, 1], [2, 7], [0, 3]),
        ([3, 1], [5, 0], [4, 5], [0, 1, 3]),
    ],
)
def test_used_rows_of_a_plan(transformed: list[int], first: list[int], second: list[int], used: list[int]) -> None:
    assert used_rows(plan_of(transformed, first, second)).tolist() == used


def test_final_set_matches_hand_written_rows() -> None:
    """Every row is written out. H* is computed only for the used rows, and each of two ranks takes its share."""
    batch, plan = batch_of(), plan_of([3], [0, 5], [7, 1])
    transformed = torch.stack([batch.embeddings[1] + 100, batch.embeddings[3] + 100])
    rows, strength = torch.tensor([1, 3]), torch.tensor(0.5)
    mixed = final_set(batch, transformed, rows, plan, HALVES, strength, attention=transformed)
    masks = (MASK[0], MASK[3]), (MASK[1], MASK[1])
    pairs = ((batch.embeddings[0], transformed[1]), (transformed[0], batch.embeddings[1]))
    synthetic = [
        functional.interpolate(first[None], second[None], lam[None], first_mask=mask_a[None], second_mask=mask_b[None])
        for (first, second), lam, (mask_a, mask_b) in zip(pairs, plan.lam, masks, strict=True)
    ]
    expected = torch.cat([batch.embeddings, transformed[1:], *synthetic])
    torch.testing.assert_close(mixed.embeddings, expected)
    index_a, index_b = torch.tensor([0, 1, 2, 3, 3, 0, 1]), torch.tensor([0, 1, 2, 3, 3, 3, 1])
    weight = torch.tensor([1, 1, 0, 1, 0.5, 0.5, 0.5]) / 4.5
    lam = torch.tensor([1, 1, 1, 1, 1, 0.25, 0.75])
    origin = [Origin.ORIGINAL] * 4 + [Origin.TRANSFORMED] + [Origin.SYNTHETIC] * 2
    fields = {
        "targets_a": batch.targets[index_a],
        "targets_b": batch.targets[index_b],
        "lam": lam,
        "mask": MASK[index_a] | MASK[index_b],
        "mask_a": MASK[index_a],
        "mask_b": MASK[index_b],
        "weight": weight,
        "origin": torch.tensor(origin),
        "index_a": index_a,
        "index_b": index_b,
    }
    for name, value in fields.items():
        torch.testing.assert_close(getattr(mixed, name), value)
    assert (mixed.num_originals, mixed.num_synthetic, mixed.apart, mixed.ranks) == (4, 2, False, None)
    assert mixed.attention is transformed
    ranks = distributed.GroupReference()
    for rank, own in enumerate(([0, 1, 2, 4, 5], [3, 6])):
        share = distributed.share_of(plan, [3, 1], ranks, rank=rank)
        part = final_set(batch, transformed, rows, plan, HALVES, strength, share=share)
        torch.testing.assert_close(part.embeddings, expected[own])
        for name, value in fields.items():
            torch.testing.assert_close(getattr(part, name), value[own] * 2 if name == "weight" else value[own])
        assert (part.num_originals, part.num_synthetic) == ((3, 1), (1, 1))[rank]
        assert part.ranks is ranks


def test_row_weights_depend_on_the_options() -> None:
    batch, plan = batch_of(), plan_of([3], [0], [3])
    rows = torch.tensor([3])
    weights = {}
    for changed in ({}, {"final": "weight"}, {"averaging": "apart"}):
        options = replace(HALVES, transformed_ratio=0.25, **changed)
        mixed = final_set(batch, batch.embeddings[3:], rows, plan, options, torch.tensor(1.0))
        weights[str(changed)] = mixed.weight.tolist()
        assert mixed.apart == ("averaging" in changed)
    assert list(weights.values()) == [
        pytest.approx([0.2, 0.2, 0, 0.2, 0.2, 0.2]),
        pytest.approx([0.25, 0.25, 0, 0.25, 0.0625, 0.1875]),
        pytest.approx([0.25, 0.25, 0, 0.25, 0.25, 1]),
    ]
