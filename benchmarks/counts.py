"""Operations and bytes that a training step needs: a lower bound of its time on any machine.

A product of (m, k) and (k, n) takes 2 m k n operations. For each product of the forward pass, forward and backward
together take three products, or two if the input needs no gradient.
"""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.batches import IMAGES
from benchmarks.release import perceptron_of
from reference_models.encoders.stages import GRID
from reference_models.systems.i2srm import I2SRM

# A weight is read in the forward and the backward pass. Its gradient is written, clipped and read. AdamW reads and
# writes the weight and both moments.
ACCESSES_OF_WEIGHT = 2 + 4 + 6
OTHERS = ("text_encoder", "vision", "prefix")


def encoder_flops(model: I2SRM, lengths: Tensor) -> float:
    """Return the operations of the text encoder, forward and backward, for sentences without padding."""
    config = model.text_encoder.body.config
    width, tokens = config.hidden_size, int(lengths.sum())
    visual = GRID * GRID * IMAGES
    linear = 2 * tokens * (4 * width**2 + 2 * width * config.intermediate_size)
    attention = 2 * 2 * width * int((lengths * (lengths + visual)).sum())
    flops: float = 3.0 * config.num_hidden_layers * (linear + attention)
    return flops


def prefix_flops(model: I2SRM, samples: int) -> float:
    """Return the operations of the visual prefix of the release, forward and backward."""
    mixer = perceptron_of(model)
    first, last = (part for part in mixer.perceptron if isinstance(part, nn.Linear))
    cells = GRID * GRID
    mixing = mixer.layers * last.out_features
    by_image = 2 * cells * first.weight.numel() + 3 * (
        cells * last.weight.numel() + mixer.gates.weight.numel() + cells * mixing
    )
    return 2.0 * samples * IMAGES * by_image


def module_flops(model: I2SRM, samples: int, rows: int) -> float:
    """Return the operations of AttnMixup, the semantic loss and the head, forward and backward.

    A weight is applied to each row once. Queries, keys and the semantic loss use one vector per sample instead.

    Args:
        model: The model.
        samples: Number of samples.
        rows: Number of samples, or of words of all samples for entities.
    """
    pooled = ("mixer.attention.project_query", "mixer.attention.project_key", "semantic")
    parts = [(name, p.numel()) for name, p in model.named_parameters() if p.ndim == 2 and not name.startswith(OTHERS)]
    return 3.0 * 2 * sum((samples if name.startswith(pooled) else rows) * size for name, size in parts)


@torch.no_grad()
def image_flops(model: I2SRM, side: int) -> float:
    """Return the operations of the backbone for one image, forward."""
    with FlopCounterMode(display=False) as counter:
        model.vision(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=model.device))
    return float(counter.get_total_flops())


def necessary_flops(model: I2SRM, lengths: Tensor, *, cached: bool, side: int) -> float:
    """Return the operations of a step. Without the cache, each image of side x side takes one forward pass."""
    rows = len(lengths) if model.task.pairs else int(((lengths - 2) // 2).sum())
    flops = encoder_flops(model, lengths) + prefix_flops(model, len(lengths)) + module_flops(model, len(lengths), rows)
    return flops if cached else flops + len(lengths) * IMAGES * image_flops(model, side)


def necessary_bytes(model: I2SRM) -> float:
    """Return the bytes of weights, gradients and AdamW's moments that a step in float32 moves, without activations."""
    return 4.0 * ACCESSES_OF_WEIGHT * sum(p.numel() for p in model.parameters() if p.requires_grad)


def state_bytes(model: I2SRM) -> int:
    """Return the bytes kept between steps in float32: all weights, and gradients and moments of the trained ones."""
    return sum(4 * p.numel() * (4 if p.requires_grad else 1) for p in model.parameters())
