"""Linear layers in int8, for prediction on a CPU: weights rounded once by output channel, inputs by row as they come.

They stand on PyTorch's own product of int8 matrices. `torch.ao.quantization.quantize_dynamic` is deprecated and rounds
a batch on one scale, so that what is said of a sample would depend on its neighbours; its successor torchao calls the
same product, in eager mode at 1.6 times the cost of this file, and would be one more dependency.
"""

import itertools
import logging
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from reference_models.errors import UserError

logger = logging.getLogger(__name__)


def to_int8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, C) as int8 in [-127, 127], and the scale (N, 1) of each: `rows` is about int8 * scale."""
    # Two passes that only read take half the time of `rows.abs().amax()`.
    largest = torch.maximum(rows.amax(dim=-1, keepdim=True), -rows.amin(dim=-1, keepdim=True))
    scale = (largest / 127).clamp_min(torch.finfo(rows.dtype).tiny)  # a row of zeros stays one
    return (rows / scale).round_().to(torch.int8), scale


class Int8Linear(nn.Module):
    """A linear layer whose product is one of int8 matrices, summed exactly in int32; all else is float32.

    Args:
        linear: the layer that it stands for, on the CPU.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight, scale = to_int8(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.squeeze(1))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """From (..., in_features) to (..., out_features)."""
        rows, scale = to_int8(inputs.reshape(-1, self.in_features))
        outputs = torch._int_mm(rows, self.weight.T).to(inputs.dtype).mul_(scale).mul_(self.scale)
        if self.bias is not None:
            outputs += self.bias
        return outputs.view(*inputs.shape[:-1], self.out_features)

    def _save_to_state_dict(self, *args: object) -> None:
        raise UserError("a model in int8 is for prediction alone; save the one that was loaded")


def product_is_exact() -> bool:
    """Whether sums of the largest products come out right; without VNNI oneDNN adds pairs of them in 16 bits."""
    largest = torch.full((32, 64), 127, dtype=torch.int8)
    try:
        sums = torch._int_mm(largest, largest.T)
    except (AttributeError, RuntimeError):  # not in this PyTorch, or not on this machine
        return False
    return bool((sums == 64 * 127**2).all())


def int8_to_float32() -> float:
    """Seconds of a product of int8 matrices, as a multiple of those of the same product in float32: medians of 5."""
    left, right = torch.ones(2, 256, 384, dtype=torch.int8)
    float_left, float_right = left.float(), right.float()

    def seconds(multiply: Callable[[], Tensor]) -> float:
        multiply()
        times = [time.perf_counter()]
        for _ in range(5):
            multiply()
            times.append(time.perf_counter())
        return statistics.median(end - start for start, end in itertools.pairwise(times))

    return seconds(lambda: torch._int_mm(left, right.T)) / seconds(lambda: float_left @ float_right.T)


def use_int8(encoder: nn.Module) -> None:
    """Put `Int8Linear` in place of every linear layer of an encoder; warns where that is slower than float32.

    Raises:
        UserError: the encoder is not on a CPU, has no linear layer, or the product is not exact on this machine.
    """
    layers = {name: module for name, module in encoder.named_modules() if type(module) is nn.Linear}
    if not layers:
        raise UserError("int8: the text encoder has no linear layers")
    if (device := next(encoder.parameters()).device.type) != "cpu":
        raise UserError(f"int8 is for the CPU, and the model is on {device!r}; leave int8 out")
    if not product_is_exact():
        needed = "on x86 that takes a CPU with VNNI"
        raise UserError(f"int8: this machine has no exact product of int8 matrices ({needed}); leave int8 out")
    if (ratio := int8_to_float32()) > 1:
        logger.warning(
            "int8 is slower than float32 on this CPU (a product takes %.1f times as long); leave it out", ratio
        )
    for name, layer in layers.items():
        encoder.set_submodule(name, Int8Linear(layer))
