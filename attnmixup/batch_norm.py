"""BatchNorm in a head: running statistics from the original samples, not from mixed rows."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnmixup.checks import is_recomputing
from attnmixup.mixed_batch import MixedBatch


@contextmanager
def statistics_of_originals(head: nn.Module, mixed: MixedBatch) -> Iterator[None]:
    """Update the running statistics of BatchNorm layers in a head from original rows only, within this context.

    In training all rows are normalised by the statistics of all rows, as usual. Only the running statistics, which
    evaluation uses, exclude transformed and synthetic rows. The first axis of every layer input must be the rows. With
    activation checkpointing of the head, call ``backward`` within this context, too: it runs the layers again.

    Args:
        head: The module that receives ``mixed.embeddings``.
        mixed: The mixed batch.

    Yields:
        None; apply the head inside the context.

    Example:
        >>> from attnmixup import AttnMixup
        >>> mixed = AttnMixup(dim=4)(torch.randn(6, 4))
        >>> head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
        >>> with statistics_of_originals(head, mixed):
        ...     outputs = head(mixed.embeddings)
    """

    def before(layer: Any, inputs: tuple[Any, ...]) -> None:
        if layer.training and layer.track_running_stats:
            if not is_recomputing():
                with torch.no_grad():
                    layer.forward(inputs[0][: mixed.num_originals])
            layer.track_running_stats = False
            changed.append(layer)

    def after(layer: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if layer in changed:
            changed.remove(layer)
            layer.track_running_stats = True

    changed: list[Any] = []
    with ExitStack() as stack:
        for layer in head.modules():
            if isinstance(layer, _BatchNorm):
                stack.callback(layer.register_forward_pre_hook(before).remove)
                stack.callback(layer.register_forward_hook(after, always_call=True).remove)
        yield
