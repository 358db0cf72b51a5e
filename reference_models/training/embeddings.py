"""Gradients of embedding tables by rows: a step writes those of its words, not zeros into all the others."""

import torch
from torch import Tensor, nn

# Smaller tables, as of positions, are not worth it.
LEAST_WEIGHTS = 2**20


def write_used_rows(model: nn.Module) -> None:
    """Keep one gradient for each large embedding table of a model, and write only the rows of a step's words into it.

    PyTorch fills a new table with zeros in every step, which on a CPU takes up to a third of the step of a small
    encoder. The gradient is the same, to the last digit where a step reads the table once. It serves training on a CPU
    in one process, without `torch.compile`.

    Args:
        model: its tables are changed in place, for good.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight.numel() >= LEAST_WEIGHTS:
            module.sparse = True
            _RowGradient(module.weight)


class _RowGradient:
    """The gradient of one table, which is zero but for the rows written since it was last empty."""

    def __init__(self, weight: Tensor) -> None:
        self.kept: Tensor | None = None
        self.written: list[Tensor] = []
        self.arrived: list[Tensor] = []
        weight.register_hook(self._note)
        weight.register_post_accumulate_grad_hook(self._write)

    def _note(self, gradient: Tensor) -> None:
        if gradient.is_sparse:
            self.arrived.append(gradient._indices()[0])

    def _write(self, weight: Tensor) -> None:
        """Turn the sparse gradient of a step's first batch into the kept one; to that, further batches are added."""
        gradient = weight.grad
        if gradient is not None and gradient.is_sparse:
            if self.kept is None:
                self.kept = torch.zeros_like(weight)
            for rows in self.written:
                self.kept[rows] = 0
            self.written = []
            self.kept.index_add_(0, gradient._indices()[0], gradient._values())
            weight.grad = self.kept
        self.written += self.arrived
        self.arrived = []
