"""The additive score of many pairs, tile by tile: never more memory than one tile, forward or backward."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Elements of a tile: what stays in the cache of a CPU, and what keeps an accelerator busy.
CPU_TILE = 2**19
ACCELERATOR_TILE = 2**26


def tile_elements(device: torch.device) -> int:
    """Elements of a tile on this device; so many or fewer are better computed at once."""
    return CPU_TILE if device.type == "cpu" else ACCELERATOR_TILE


def tiled_additive_scores(query: Tensor, key: Tensor, vector: Tensor) -> Tensor:
    """What :func:`attnmixup.functional.additive_scores` computes, in the same shapes, in tiles.

    The tanh of each tile is computed once more in the backward pass. Second derivatives, forward mode and
    ``torch.func`` work too; they hold all pairs at once.
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
        for head, rows, columns in _tiles(query, key):
            scores[head, rows, columns] = _tanh(query[head, rows], key[head, columns]) @ vector[head]
        return scores

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
    for head, rows, columns in _tiles(query, key):
        tile = gradient[head, rows, columns]
        tanh = _tanh(query[head, rows], key[head, columns])
        of_vector[head] += tile.flatten() @ tanh.flatten(0, 1)
        # The derivative of tanh is 1 - tanh^2; its 1 is the same for all features of a pair.
        squares = tanh.square_().mul_(tile.unsqueeze(-1))
        of_query[head, rows] += tile.sum(1, keepdim=True) - squares.sum(1)
        of_key[head, columns] += tile.sum(0).unsqueeze(-1) - squares.sum(0)
    return of_query * vector.unsqueeze(-2), of_key * vector.unsqueeze(-2), of_vector


def _tanh(query: Tensor, key: Tensor) -> Tensor:
    return (query.unsqueeze(1) + key).tanh_()


def _tiles(query: Tensor, key: Tensor) -> Iterator[tuple[int, slice, slice]]:
    heads, num_rows, width = query.shape
    num_columns = key.shape[1]
    elements = tile_elements(query.device)
    wide = max(1, min(num_columns, elements // width))
    high = max(1, elements // (wide * width))
    for head in range(heads):
        for row in range(0, num_rows, high):
            for column in range(0, num_columns, wide):
                yield head, slice(row, row + high), slice(column, column + wide)
