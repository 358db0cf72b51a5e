"""The additive score of many pairs, tile by tile: never more memory than one tile, forward or backward."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Elements of a tile: what stays in the cache of a CPU, and what keeps an accelerator busy.
CPU_TILE = 2**18
ACCELERATOR_TILE = 2**26
# e^(2 x) of larger numbers loses more digits than the sum of two such numbers does.
LARGEST = 20.0


def tile_elements(device: torch.device) -> int:
    """Elements of a tile on this device; so many or fewer are better computed at once."""
    return CPU_TILE if device.type == "cpu" else ACCELERATOR_TILE


def tiled_additive_scores(query: Tensor, key: Tensor, vector: Tensor) -> Tensor:
    """What :func:`attnmixup.functional.additive_scores` computes, in the same shapes, in tiles.

    Each tile is computed once more in the backward pass. Second derivatives, forward mode and ``torch.func`` work too;
    they hold all pairs at once.
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
        for heads, rows, columns, tile in _halves(query, key):
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
    for heads, rows, columns, tile in _halves(query, key):
        of_scores = gradient[heads, rows, columns]
        of_vector[heads] += (of_scores.flatten(1).unsqueeze(1) @ tile.flatten(1, 2)).squeeze(1)
        # The derivative of tanh is 1 - tanh^2, of which this is a quarter.
        slopes = torch.addcmul(quarter, tile, tile, value=-1, out=tile).mul_(of_scores.unsqueeze(-1))
        of_query[heads, rows] += slopes.sum(2)
        of_key[heads, columns] += slopes.sum(1)
    slope = 4 * vector.unsqueeze(-2)
    return of_query * slope, of_key * slope, -2 * of_vector


def _halves(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice, slice, Tensor]]:
    """Tile by tile ``-tanh(query_i + key_j) / 2``, which is ``1 / (1 + e^(2 query_i) e^(2 key_j)) - 1/2``.

    On a CPU the exponentials are taken before the pairs are made: a pair then costs a product and an inverse, a quarter
    of a tanh.
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
    """Heads, rows of the query, and rows of the key of each tile."""
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
