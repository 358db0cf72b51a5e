"""Tiled additive scores and their gradients equal the untiled ones for any tile size."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attnmixup import functional, tiled
from tests.attnmixup.strategies import seeds, sizes, tensors


@given(
    lead=st.sampled_from([(), (2,)]),
    rows=sizes,
    size=sizes,
    width=st.integers(1, 4),
    elements=st.integers(1, 60),
    seed=seeds,
)
def test_tiles_do_not_change_scores_or_gradients(
    lead: tuple[int, ...], rows: int, size: int, width: int, elements: int, seed: int
) -> None:
    shapes = ((*lead, 2, rows, width), (*lead, 2, size, width), (2, width))
    leaves = [tensors(seed + i, *shape).requires_grad_() for i, shape in enumerate(shapes)]
    with pytest.MonkeyPatch.context() as patch:
        results = []
        for limit in (10**6, elements):
            patch.setattr(tiled, "CPU_TILE", limit)
            scores = functional.additive_scores(*leaves)
            results.append([scores, *torch.autograd.grad(scores.sin().sum(), leaves)])
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize(("elements", "tiles"), [(3, 70), (24, 10), (63, 4), (105, 2), (209, 2), (210, 1)])
def test_tiles_are_as_large_as_the_limit_allows(monkeypatch: pytest.MonkeyPatch, elements: int, tiles: int) -> None:
    halves, seen = tiled._half_tanh_tiles, []

    def watch(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice, slice, Tensor]]:
        for part in halves(query, key):
            seen.append(part[-1])
            yield part

    monkeypatch.setattr(tiled, "_half_tanh_tiles", watch)
    monkeypatch.setattr(tiled, "CPU_TILE", elements)
    query, key, vector = (tensors(0, *shape).requires_grad_() for shape in ((2, 5, 3), (2, 7, 3), (2, 3)))
    tiled.tiled_additive_scores(query, key, vector).sum().backward()
    assert max(tile.numel() for tile in seen) <= elements
    assert sum(tile.numel() for tile in seen) == 2 * 2 * 5 * 7 * 3
    assert len(seen) == 2 * tiles


def untiled_scores(query: Tensor, key: Tensor, vector: Tensor) -> Tensor:
    return (torch.tanh(query.unsqueeze(-2) + key.unsqueeze(-3)) * vector[:, None, None]).sum(-1)


@pytest.mark.parametrize("size", [0.01, 1.0, 6.0, 19.9, 60.0, 1000.0])
def test_float32_scores_and_gradients_are_accurate_at_any_magnitude(size: float) -> None:
    wide = [tensors(seed, *shape) for seed, shape in enumerate(((2, 40, 64), (2, 30, 64), (2, 64)))]
    query = wide[0] / wide[0].abs().max() * size
    wide = [query, wide[1] / wide[1].abs().max() - query[:, :30], wide[2]]  # so that many sums are small
    wide[1] = wide[1].clamp(-size, size)
    narrow = [tensor.float().requires_grad_() for tensor in wide]
    exact = [tensor.detach().double().requires_grad_() for tensor in narrow]
    results = []
    for compute, leaves in ((tiled.tiled_additive_scores, narrow), (untiled_scores, exact)):
        scores = compute(*leaves)
        results.append([scores, *torch.autograd.grad(scores.sin().sum(), leaves)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(
            found.double() / expected.abs().max(), expected / expected.abs().max(), atol=1e-5, rtol=0
        )


def test_cpu_computes_no_tanh_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, vector = (
        tensors(seed, *shape).requires_grad_() for seed, shape in enumerate(((1, 4, 3), (1, 5, 3), (1, 3)))
    )
    expected = untiled_scores(query, key, vector)
    monkeypatch.setattr(torch.Tensor, "tanh_", None, raising=False)
    scores = tiled.tiled_additive_scores(query, key, vector)
    torch.testing.assert_close(scores, expected)
    scores.sum().backward()


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_nonfinite_values_affect_only_their_own_row(value: float) -> None:
    query, key, vector = (tensors(seed, *shape) for seed, shape in enumerate(((1, 4, 3), (1, 5, 3), (1, 3))))
    query[0, 2, 1] = value
    scores = tiled.tiled_additive_scores(query, key, vector)
    torch.testing.assert_close(scores, untiled_scores(query, key, vector), equal_nan=True)


def test_gradients_match_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "CPU_TILE", 10)
    query, key, vector = (tensors(0, *shape).requires_grad_() for shape in ((1, 2, 3), (1, 4, 3), (1, 3)))
    assert torch.autograd.gradcheck(tiled.tiled_additive_scores, (query, key, vector))


def test_an_accelerator_has_larger_tiles() -> None:
    assert tiled.tile_elements(torch.device("cpu")) < tiled.tile_elements(torch.device("cuda"))


@pytest.mark.parametrize("elements", [10**6, 10])
def test_torch_func_and_second_derivatives_work_for_any_tile_size(
    monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    monkeypatch.setattr(tiled, "CPU_TILE", elements)
    query, key, vector = (torch.randn(*shape).double() for shape in ((2, 3, 2), (2, 4, 2), (2, 2)))

    def total(query: Tensor, key: Tensor, vector: Tensor) -> Tensor:
        return functional.additive_scores(query, key, vector).sin().sum()

    leaves = [tensor.clone().requires_grad_() for tensor in (query, key, vector)]
    assert torch.autograd.gradgradcheck(total, leaves)
    gradients = torch.func.grad(total, (0, 1, 2))(query, key, vector)
    for gradient, expected in zip(gradients, torch.autograd.grad(total(*leaves), leaves), strict=True):
        torch.testing.assert_close(gradient, expected)
    tangents = torch.randn_like(query), torch.randn_like(key), torch.randn_like(vector)
    change = torch.func.jvp(total, (query, key, vector), tangents)[1]
    expected = sum((tangent * gradient).sum() for tangent, gradient in zip(tangents, gradients, strict=True))
    torch.testing.assert_close(change, expected)
    batch = torch.randn(5, *query.shape).double()
    scores = torch.func.vmap(functional.additive_scores, (0, None, None))(batch, key, vector)
    for row, of_row in zip(batch, scores, strict=True):
        torch.testing.assert_close(of_row, functional.additive_scores(row, key, vector))
