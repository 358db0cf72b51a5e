"""Additive scores of many pairs in tiles: temporary memory of one tile in the forward and backward pass."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Elements of a tile: small enough for a CPU cache, or large enough to keep an accelerator busy.
CPU_TILE = 2**18
ACCELERATOR_TILE = 2**26
# Above this, e^(2 x) loses more digits than the sum of two such numbers.
LARGEST = 20.0


def tile_elements(device: torch.device) -> int:
    """Return the number of elements of a tile on this device; smaller problems are faster without tiles."""
    return CPU_TILE if device.type == "cpu" else ACCELERATOR_TILE


def tiled_additive_scores(query: Tensor, key: Tensor, vector: Tensor) -> Tensor:
    """Compute :func:`attnmixup.functional.additive_scores` in tiles, with the same shapes.

    Each tile is recomputed in the backward pass. Second derivatives, forward mode and ``torch.func`` are supported, but
    store all pairs.
    """
    heads = key.shape[:-2]
    flat = (query.flatten(0, -3), key.flatten(0, -3), vector.expand(*heads, -1).flatten(0, -2))
    scores: Tensor = _TiledAdditiveScores.apply(*flat)
    return scores.reshape(*heads, *scores.shape[1:])


class _TiledAdditiveScores(torch.autograd.Function):
    """Scores (H, Q, B) of query (H, Q, width), key (H, B, width) and vector (H, width)."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, vector: Tensor) -> Tensor:
        scores = query.new_empty(*query.shape[:-1], key.shape[-2])
        for heads, rows, columns, tile in _half_tanh_tiles(query, key):
            of_tile = tile.flatten(1, 2) @ vector[heads].unsqueeze(-1)
            scores[heads, rows, columns] = of_tile.view(tile.shape[:-1])
        return scores.mul_(-2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Gradients are recorded here only for a second derivative.
        compute = _gradients if torch.is_grad_enabled() else _gradients_in_tiles
        return compute(gradient, *ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, query_change: Tensor, key_change: Tensor, vector_change: Tensor) -> Tensor:
        query, key, vector = ctx.saved_tensors
        tanh = torch.tanh(query.unsqueeze(2) + key.unsqueeze(1))
        of_pairs = (1 - tanh.square()) * (query_change.unsqueeze(2) + key_change.unsqueeze(1))
        changes: Tensor = (of_pairs * vector[:, None, None] + tanh * vector_change[:, None, None]).sum(-1)
        return changes

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], query: Tensor, key: Tensor, vector: Tensor
    ) -> tuple[Tensor, int]:
        batched = [
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip((query, key, vector), in_dims, strict=True)
        ]
        scores = _TiledAdditiveScores.apply(*(tensor.flatten(0, 1) for tensor in batched))
        return scores.reshape(info.batch_size, -1, *scores.shape[1:]), 0


def _gradients(gradient: Tensor, query: Tensor, key: Tensor, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    tanh = torch.tanh(query.unsqueeze(2) + key.unsqueeze(1))
    of_pairs = gradient.unsqueeze(-1) * (1 - tanh.square()) * vector[:, None, None]
    return of_pairs.sum(2), of_pairs.sum(1), (gradient.unsqueeze(-1) * tanh).sum((1, 2))


def _gradients_in_tiles(gradient: Tensor, query: Tensor, key: Tensor, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    of_query, of_key, of_vector = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(vector)
    quarter = query.new_full((), 0.25)
    for heads, rows, columns, tile in _half_tanh_tiles(query, key):
        of_scores = gradient[heads, rows, columns]
        of_vector[heads] += (of_scores.flatten(1).unsqueeze(1) @ tile.flatten(1, 2)).squeeze(1)
        # The derivative of tanh is 1 - tanh^2; this is a quarter of it.
        slopes = torch.addcmul(quarter, tile, tile, value=-1, out=tile).mul_(of_scores.unsqueeze(-1))
        of_query[heads, rows] += slopes.sum(2)
        of_key[heads, columns] += slopes.sum(1)
    slope = 4 * vector.unsqueeze(-2)
    return of_query * slope, of_key * slope, -2 * of_vector


def _half_tanh_tiles(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice, slice, Tensor]]:
    """Yield tiles of ``-tanh(query_i + key_j) / 2``, which equals ``1 / (1 + e^(2 query_i) e^(2 key_j)) - 1/2``.

    On a CPU the exponentials are computed before the pairs are formed. Each pair then costs a product and a reciprocal,
    which is a quarter of the cost of a tanh.
    """
    apart = query.device.type == "cpu" and all(bool((side.abs() < LARGEST).all()) for side in (query, key))
    first, second = ((2 * side).exp() if apart else side for side in (query, key))
    one = query.new_ones(())
    for heads, rows, columns in _tiles(query, key):
        of_rows, of_columns = first[heads, rows].unsqueeze(2), second[heads, columns].unsqueeze(1)
        if apart:
            tile = torch.addcmul(one, of_rows, of_columns).reciprocal_().sub_(0.5)
        else:
            tile = (of_rows + of_columns).tanh_().mul_(-0.5)
        yield heads, rows, columns, tile


def _tiles(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Yield heads, rows of the query, and rows of the key of each tile."""
    num_heads, num_rows, width = query.shape
    num_columns = key.shape[1]
    elements = tile_elements(query.device)
    wide = max(1, min(num_columns, elements // width))
    high = max(1, min(num_rows, elements // (wide * width)))
    deep = max(1, elements // (high * wide * width))
    for head in range(0, num_heads, deep):
        for row in range(0, num_rows, high):
            for column in range(0, num_columns, wide):
                yield slice(head, head + deep), slice(row, row + high), slice(column, column + wide)
