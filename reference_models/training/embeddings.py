"""Row-wise gradients of embedding tables: a step writes only the rows that it uses."""

import torch
from torch import Tensor, nn

# It does not pay off for smaller tables, such as position embeddings.
LEAST_WEIGHTS = 2**20


def write_used_rows(model: nn.Module) -> None:
    """Keep one gradient buffer per large embedding table of a model, and write only the rows used in a step.

    PyTorch fills a new table with zeros in every step, which on a CPU takes up to a third of the step time of a small
    encoder. The gradient is the same; it is bit-identical if a step reads the table once. Use it for training on a CPU
    in one process, without `torch.compile`.

    Args:
        model: Model whose tables are changed in place, permanently.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight.numel() >= LEAST_WEIGHTS:
            module.sparse = True
            _RowGradient(module.weight)


class _RowGradient:
    """Gradient buffer of one table; all rows are zero except those in `written`."""

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
        """Copy the sparse gradient of a step's first mini-batch into the buffer; PyTorch adds later mini-batches."""
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
