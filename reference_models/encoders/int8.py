"""Int8 linear layers for prediction on a CPU: static weights with a scale per output channel, dynamic inputs per row.

They use PyTorch's int8 matrix product. `torch.ao.quantization.quantize_dynamic` is deprecated and uses one scale for a
whole batch, so the prediction of a sample would depend on the other samples. Its successor torchao calls the same
product; in eager mode it costs 1.6 times as much as this file, and it would be another dependency.
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
    """Quantise rows (N, C) to int8 in [-127, 127] with a scale (N, 1) per row: `rows` is approximately int8 * scale."""
    # Two passes that only read take half the time of `rows.abs().amax()`.
    largest = torch.maximum(rows.amax(dim=-1, keepdim=True), -rows.amin(dim=-1, keepdim=True))
    scale = (largest / 127).clamp_min(torch.finfo(rows.dtype).tiny)  # a row of zeros stays zero
    return (rows / scale).round_().to(torch.int8), scale


class Int8Linear(nn.Module):
    """Linear layer with an int8 matrix product, summed exactly in int32; everything else is float32.

    Args:
        linear: The layer to replace, on the CPU.
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
        """Map inputs (..., in_features) to outputs (..., out_features)."""
        rows, scale = to_int8(inputs.reshape(-1, self.in_features))
        outputs = torch._int_mm(rows, self.weight.T).to(inputs.dtype).mul_(scale).mul_(self.scale)
        if self.bias is not None:
            outputs += self.bias
        return outputs.view(*inputs.shape[:-1], self.out_features)

    def _save_to_state_dict(self, *args: object) -> None:
        raise UserError("an int8 model is only for prediction and cannot be saved; load it without int8 to save it")


def product_is_exact() -> bool:
    """Return whether sums of the largest products are exact; without VNNI, oneDNN adds pairs of products in 16 bits."""
    largest = torch.full((32, 64), 127, dtype=torch.int8)
    try:
        sums = torch._int_mm(largest, largest.T)
    except (AttributeError, RuntimeError):  # not supported by this PyTorch or this machine
        return False
    return bool((sums == 64 * 127**2).all())


def int8_to_float32() -> float:
    """Return the time of an int8 matrix product divided by the time of the same float32 product, medians of 5 runs."""
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
    """Replace every linear layer of an encoder by `Int8Linear`, with a warning if that is slower than float32.

    Raises:
        UserError: If the encoder is not on a CPU, has no linear layer, or int8 products are not exact on this machine.
    """
    layers = {name: module for name, module in encoder.named_modules() if type(module) is nn.Linear}
    if not layers:
        raise UserError("int8: the text encoder has no linear layers")
    if (device := next(encoder.parameters()).device.type) != "cpu":
        raise UserError(f"int8 runs only on the CPU, but the model is on {device!r}; leave int8 out")
    if not product_is_exact():
        needed = "x86 needs a CPU with VNNI"
        raise UserError(f"int8: this machine has no exact int8 matrix product ({needed}); leave int8 out")
    if (ratio := int8_to_float32()) > 1:
        logger.warning(
            "int8 is slower than float32 on this CPU (a product takes %.1f times as long); leave int8 out", ratio
        )
    for name, layer in layers.items():
        encoder.set_submodule(name, Int8Linear(layer))
