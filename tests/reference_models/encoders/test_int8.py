"""Int8 layers compared with float64, independence of rows, extreme rows, and devices without int8."""

import copy
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from reference_models.encoders.int8 import Int8Linear, int8_to_float32, product_is_exact, to_int8, use_int8
from reference_models.encoders.text import TextEncoder
from reference_models.errors import UserError
from tests.reference_models.tiny_models import FAMILIES, make_batch, make_model, make_tokens, text_config

needs_int8 = pytest.mark.skipif(not product_is_exact(), reason="this CPU has no exact int8 matrix product")


def missing(*_: Tensor) -> NoReturn:
    raise NotImplementedError("aten::_int_mm is not there")


def saturating(left: Tensor, right: Tensor) -> Tensor:
    """Multiply like a CPU without VNNI: one factor is shifted to unsigned, pairs of products saturate at 16 bits."""
    pairs: Tensor = (left.int() + 128).unflatten(1, (-1, 2)).transpose(0, 1) @ right.int().unflatten(0, (-1, 2))
    return pairs.clamp(-(2**15), 2**15 - 1).sum(0) - 128 * right.int().sum(0)


def make_linear(inputs: int = 48, outputs: int = 20, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias)


def exact(linear: nn.Linear, inputs: Tensor) -> Tensor:
    bias = 0 if linear.bias is None else linear.bias.double()
    return inputs.double() @ linear.weight.double().T + bias


@given(st.integers(0, 1000), st.sampled_from([1e-30, 1e-3, 1.0, 1e20]))
def test_rows_are_rounded_by_at_most_half_a_step(seed: int, size: float) -> None:
    rows = size * torch.randn(5, 9, generator=torch.Generator().manual_seed(seed))
    levels, scale = to_int8(rows)
    assert levels.dtype == torch.int8
    assert levels.abs().amax(1).tolist() == [127] * 5
    assert ((levels.double() * scale - rows).abs() <= 0.5001 * scale).all()


@needs_int8
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(48,), (1, 48), (3, 5, 48), (0, 48)])
@torch.no_grad()
def test_layer_error_is_within_the_rounding_bound(shape: tuple[int, ...], bias: bool) -> None:
    linear = make_linear(bias=bias)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    outputs = Int8Linear(linear)(inputs)
    rows, columns = inputs.reshape(-1, 48).abs(), linear.weight.T.abs()
    step, weight_step = rows.amax(1, keepdim=True) / 127, columns.amax(0) / 127
    # Half a step of a factor times the other factor, and half a step of both.
    bound = (step * columns.sum(0) + rows.sum(1, keepdim=True) * weight_step) / 2 + 48 * step * weight_step / 4
    assert outputs.shape == (*shape[:-1], 20)
    assert outputs.dtype == torch.float32
    assert ((outputs - exact(linear, inputs)).abs().reshape(-1, 20) <= 1.001 * bound + 1e-6).all()


@needs_int8
@torch.no_grad()
def test_product_of_integers_is_exact() -> None:
    linear = make_linear(128, 6)
    linear.weight.copy_(torch.randint(-127, 128, (6, 128)))
    linear.weight[:, 0] = 127
    inputs = torch.randint(-127, 128, (7, 128)).float()
    inputs[:, 1] = 127
    torch.testing.assert_close(Int8Linear(linear)(inputs).double(), exact(linear, inputs), rtol=1e-6, atol=1e-3)


@needs_int8
@torch.no_grad()
def test_zero_and_huge_rows_are_accurate() -> None:
    linear = make_linear()
    inputs = torch.randn(4, 48, generator=torch.Generator().manual_seed(1))
    inputs[1], inputs[2] = 0, inputs[2] * 1e30
    outputs = Int8Linear(linear)(inputs)
    assert outputs.isfinite().all()
    assert torch.equal(outputs[1], linear.bias)
    expected = exact(linear, inputs)
    assert ((outputs - expected).norm(dim=1) / expected.norm(dim=1)).max() < 0.03


@needs_int8
@torch.no_grad()
def test_rows_do_not_depend_on_other_rows() -> None:
    layer = Int8Linear(make_linear())
    inputs = torch.randn(6, 48) * torch.tensor([1, 1e3, 1e-3, 1e6, 1, 0])[:, None]
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    outputs = layer(inputs)
    assert torch.equal(layer(inputs[order]), outputs[order])
    assert all(torch.equal(layer(row[None])[0], output) for row, output in zip(inputs, outputs, strict=True))


@needs_int8
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_int8_hidden_states_are_close_to_float32(family: str) -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(text_config(family), fusion=None).eval()
    ids, mask = make_tokens()
    expected = encoder(ids, mask)[mask.bool()]
    use_int8(encoder.body)
    hidden = encoder(ids, mask)[mask.bool()]
    assert not torch.equal(hidden, expected)
    assert (hidden - expected).norm() / expected.norm() < 0.05


@needs_int8
@pytest.mark.parametrize("task", ["ner", "re"])
@pytest.mark.parametrize("options", [{}, {"fusion": "concat"}, {"attention": "eager"}], ids=str)
@torch.no_grad()
def test_int8_keeps_predictions_and_the_effect_of_the_prefix(task: str, options: dict[str, Any]) -> None:
    model = make_model(task=task, **options).eval()
    batches = [make_batch(task, seed=seed) for seed in range(8)]
    expected = [model(**batch) for batch in batches]
    use_int8(model.text_encoder.body)
    outputs = [model(**batch) for batch in batches]
    same = [
        (output.predictions == before.predictions).float().mean().item()
        for output, before in zip(outputs, expected, strict=True)
    ]
    assert sum(same) / len(same) > 0.9
    blind = model(**(batches[0] | {"image_mask": torch.zeros_like(batches[0]["image_mask"])}))
    assert not torch.allclose(blind.scores[0], outputs[0].scores[0], atol=1e-4)


@needs_int8
def test_only_linear_layers_of_the_encoder_change() -> None:
    model = make_model()
    before = copy.deepcopy(model)
    use_int8(model.text_encoder.body)
    linear = {
        f"text_encoder.body.{name}" for name, m in before.text_encoder.body.named_modules() if isinstance(m, nn.Linear)
    }
    assert linear
    assert {name for name, m in model.named_modules() if isinstance(m, Int8Linear)} == linear
    others = {name: p for name, p in before.named_parameters() if name.rpartition(".")[0] not in linear}
    assert dict(model.named_parameters()).keys() == others.keys()
    assert all(torch.equal(p, others[name]) for name, p in model.named_parameters())


@needs_int8
def test_saving_an_int8_model_raises(tmp_path: Path) -> None:
    model = make_model()
    use_int8(model.text_encoder.body)
    with pytest.raises(UserError, match="load it without int8 to save it"):
        model.save_pretrained(tmp_path)
    assert list(tmp_path.glob("*.safetensors")) == []


def test_unavailable_int8_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="the model is on 'meta'"):
        use_int8(make_model().text_encoder.body.to("meta"))
    with pytest.raises(UserError, match="no linear layers"):
        use_int8(nn.Embedding(3, 4))

    model = make_model()
    for product in (missing, saturating):
        monkeypatch.setattr(torch, "_int_mm", product)
        with pytest.raises(UserError, match="no exact int8 matrix product"):
            use_int8(model.text_encoder.body)
    monkeypatch.delattr(torch, "_int_mm")
    with pytest.raises(UserError, match="no exact int8 matrix product"):
        use_int8(model.text_encoder.body)
    assert not any(isinstance(module, Int8Linear) for module in model.modules())


def test_slower_int8_warns(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("reference_models.encoders.int8.product_is_exact", lambda: True)
    monkeypatch.setattr("reference_models.encoders.int8.int8_to_float32", lambda: 0.5)
    use_int8(make_model().text_encoder.body)
    assert not caplog.messages
    monkeypatch.setattr("reference_models.encoders.int8.int8_to_float32", lambda: 8.04)
    use_int8(make_model().text_encoder.body)
    assert "int8 is slower than float32 on this CPU (a product takes 8.0 times as long)" in caplog.text


@needs_int8
def test_int8_to_float32_is_a_ratio_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    int8_product = torch._int_mm

    def timed(*factors: Tensor) -> Tensor:
        now[0] += 5.0
        return int8_product(*factors)

    def clock() -> float:
        now[0] += 2.0  # seconds of a float32 product in this test
        return now[0]

    monkeypatch.setattr(torch, "_int_mm", timed)
    monkeypatch.setattr(time, "perf_counter", clock)
    assert int8_to_float32() == 3.5
