"""Faster float32 matrix products, where the machine keeps float32's accuracy."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F

from reference_models.errors import UserError

# Float32's own error is about 3e-7 here; products that fall to TF32 or bfloat16 have 3e-4 and more.
TOLERANCE = 2e-6


@contextmanager
def float32_products(*, fast: bool, device: torch.device) -> Iterator[None]:
    """Let float32 products inside take PyTorch's "medium" way if `fast`, and restore what was set before.

    On a CPU that is another kernel of oneDNN, about twice as fast. Whether it still computes in float32 depends on the
    machine, so it is measured first.

    Args:
        fast: False leaves everything as it is.
        device: where the products are made.

    Returns:
        A context manager.

    Raises:
        UserError: products lose accuracy on this device.
    """
    if not fast:
        yield
        return
    if not keeps_float32(device):
        raise UserError(
            f"fast_float32: on this {device.type} the products would have a relative error of "
            f"{medium_error(device):.0e}, and float32 has {TOLERANCE:.0e} at most; leave it out"
        )
    with _medium():
        yield


def keeps_float32(device: torch.device) -> bool:
    """Whether PyTorch's "medium" products have float32's accuracy on this device; where a CPU has AMX they do not."""
    return medium_error(device) <= TOLERANCE


@cache
def medium_error(device: torch.device) -> float:
    """`product_error` of PyTorch's "medium" products, which is measured once."""
    with _medium():
        return product_error(device)


def product_error(device: torch.device) -> float:
    """Relative error of a float32 product against float64, as norm over norm."""
    generator = torch.Generator().manual_seed(0)
    rows, weights = (torch.randn(size, 768, generator=generator).to(device) for size in (256, 1024))
    # Float64 on the CPU, because not every accelerator has it.
    exact = rows.cpu().double() @ weights.cpu().double().T
    return float((F.linear(rows, weights).cpu() - exact).norm() / exact.norm())


@contextmanager
def _medium() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
