"""Precision of float32: faster matrix products where they keep its accuracy, and convolutions without TF32."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F

from reference_models.errors import UserError

# The error of float32 is about 3e-7 here; products in TF32 or bfloat16 have 3e-4 or more.
TOLERANCE = 2e-6


@contextmanager
def float32_products(*, fast: bool, device: torch.device) -> Iterator[None]:
    """Set PyTorch's float32 matmul precision to "medium" inside the context if `fast`, and restore it afterwards.

    On a CPU this selects another oneDNN kernel, about twice as fast. Whether it still computes in float32 depends on
    the machine, so the accuracy is measured first.

    Args:
        fast: If False, nothing changes.
        device: Device of the products.

    Returns:
        A context manager.

    Raises:
        UserError: If the products lose accuracy on this device.
    """
    if not fast:
        yield
        return
    check_products(device)
    with _medium():
        yield


@contextmanager
def float32_convolutions() -> Iterator[None]:
    """Compute convolutions in float32 inside the context. On a GPU, PyTorch computes them in TF32 by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def check_products(device: torch.device) -> None:
    """Check that faster products keep float32 accuracy on this device.

    Raises:
        UserError: If they do not.
    """
    if not keeps_float32(device):
        raise UserError(
            f"fast_float32: on this {device.type} the products would have a relative error of "
            f"{medium_error(device):.0e}, above the {TOLERANCE:.0e} of float32; remove the setting or option"
        )


def keeps_float32(device: torch.device) -> bool:
    """Return whether "medium" products keep float32 accuracy on this device; on CPUs with AMX they do not."""
    return medium_error(device) <= TOLERANCE


@cache
def medium_error(device: torch.device) -> float:
    """Return `product_error` at "medium" precision, measured once per device."""
    with _medium():
        return product_error(device)


def product_error(device: torch.device) -> float:
    """Return the relative error (norm over norm) of a float32 product against float64."""
    generator = torch.Generator().manual_seed(0)
    rows, weights = (torch.randn(size, 768, generator=generator).to(device) for size in (256, 1024))
    # Float64 on the CPU, because not every accelerator supports it.
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
