"""Fast dropout compared with the definition of dropout, and its use in modules and attention."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from reference_models.encoders.attention import eager_attention, sdpa_attention
from reference_models.encoders.dropout import FastDropout, replace_dropout


@given(
    rate=st.floats(0.01, 0.99),
    shape=st.lists(st.integers(0, 5), max_size=4),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**32),
)
def test_each_element_is_dropped_or_scaled_up(rate: float, shape: list[int], dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    rows = torch.rand(shape, dtype=dtype) + 1
    before = rows.clone()
    result = FastDropout(rate)(rows)
    assert result.dtype == dtype
    torch.testing.assert_close(result, torch.where(result == 0, 0, rows / (1 - rate)), rtol=2e-2, atol=0)
    assert torch.equal(rows, before)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_dropped_share_and_mean_match_dropout(rate: float) -> None:
    torch.manual_seed(0)
    ones = torch.ones(4_000_003, dtype=torch.float64)
    result = FastDropout(rate)(ones)
    error = 4 * (rate * (1 - rate) / len(ones)) ** 0.5 + 1e-5
    assert (result == 0).double().mean() == pytest.approx(rate, abs=error)
    assert result.mean() == pytest.approx(1, abs=error / (1 - rate))
    # The four decisions of a draw are independent of each other and of the previous draw.
    dropped = (result[:-3] == 0).double().view(-1, 4)
    assert torch.corrcoef(torch.cat([dropped[1:], dropped[:-1]], dim=1).T).fill_diagonal_(0).abs().max() < 5e-3


def test_same_seed_gives_the_same_mask_and_gradients_use_it() -> None:
    layer, rows = FastDropout(0.3), torch.rand(7, 5, requires_grad=True)
    torch.manual_seed(3)
    first = layer(rows)
    torch.manual_seed(3)
    assert torch.equal(first, layer(rows))
    first.sum().backward()
    torch.testing.assert_close(rows.grad, (first != 0) / 0.7, rtol=1e-4, atol=0)
    assert not torch.equal(layer(rows), layer(rows))


def test_eval_mode_and_rates_of_zero_and_one() -> None:
    rows = torch.rand(4, 3)
    assert FastDropout(0.4).eval()(rows) is rows
    assert FastDropout(0.0)(rows) is rows
    assert not FastDropout(1.0)(rows).any()


def test_replace_dropout_replaces_and_restores_every_layer() -> None:
    module = nn.Sequential(nn.Dropout(0.2), nn.ModuleDict({"inner": nn.Dropout(0.5)}), nn.Linear(2, 2)).eval()
    replace_dropout(module, FastDropout)
    assert [type(layer) for layer in (module[0], module[1]["inner"], module[2])] == [
        FastDropout,
        FastDropout,
        nn.Linear,
    ]
    assert [module[0].p, module[1]["inner"].p] == [0.2, 0.5]
    assert not module[0].training
    replace_dropout(module, nn.Dropout)
    assert type(module[0]) is type(module[1]["inner"]) is nn.Dropout


@pytest.mark.parametrize("attention", [sdpa_attention, eager_attention])
def test_attention_weights_use_fast_dropout(attention: Callable[..., tuple[Tensor, Tensor | None]]) -> None:
    module = nn.Module()
    module.dropout = FastDropout(0.25)
    query, key, value = torch.randn(3, 2, 4, 6, 8)
    torch.manual_seed(5)
    output, _ = attention(module, query, key, value, None, scaling=0.5, dropout=0.25)
    torch.manual_seed(5)
    weights = module.dropout((query @ key.transpose(2, 3) * 0.5).softmax(dim=-1))
    torch.testing.assert_close(output, (weights @ value).transpose(1, 2))
    module.eval()
    output, _ = attention(module, query, key, value, None, scaling=0.5)
    torch.testing.assert_close(output, F.scaled_dot_product_attention(query, key, value, scale=0.5).transpose(1, 2))
