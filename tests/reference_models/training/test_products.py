"""Fast float32 products: the precision is set, restored, and refused where it is inaccurate."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reference_models.errors import UserError
from reference_models.training import products
from reference_models.training.products import float32_products, product_error

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _highest_precision() -> Iterator[None]:
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision("highest")


def test_precision_is_set_in_the_context_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "medium_error", lambda device: 3e-7)
    torch.set_float32_matmul_precision("high")
    with float32_products(fast=True, device=CPU):
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == "high"
    with float32_products(fast=False, device=CPU):
        assert torch.get_float32_matmul_precision() == "high"


def test_device_with_inaccurate_products_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "medium_error", lambda device: 2e-3)
    with pytest.raises(UserError, match="on this cpu the products would have a relative error of 2e-03"):
        float32_products(fast=True, device=CPU).__enter__()
    assert torch.get_float32_matmul_precision() == "highest"


def test_medium_error_is_measured_once_at_medium_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    precisions: list[str] = []
    monkeypatch.setattr(products, "product_error", lambda d: precisions.append(torch.get_float32_matmul_precision()))
    products.medium_error.cache_clear()
    for _ in range(2):
        products.medium_error(CPU)
    products.medium_error.cache_clear()
    assert precisions == ["medium"]
    assert torch.get_float32_matmul_precision() == "highest"


def test_product_error_reflects_the_number_format(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1e-8 < product_error(CPU) < products.TOLERANCE

    def in_bfloat16(rows: Tensor, weights: Tensor) -> Tensor:
        return (rows.bfloat16() @ weights.bfloat16().T).float()

    monkeypatch.setattr(F, "linear", in_bfloat16)
    assert product_error(CPU) > 100 * products.TOLERANCE
