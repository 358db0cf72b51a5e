"""Attention across samples compared with its oracle, and its invariance to padding and sample order."""

import re
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from attnmixup import SampleAttention, functional, sample_attention, sampling, tiled
from tests.attnmixup import oracles
from tests.attnmixup.strategies import DIM, SCORES, lengths, masks, seeds, sizes, tensors

READINGS = tuple(product(SCORES, ("pooled", "position", "sample")))


def attention_of(seed: int = 0, **options: Any) -> SampleAttention:
    torch.manual_seed(seed)
    module = SampleAttention(DIM, heads=2, **options).double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    return module


def close(tensor: Tensor, expected: oracles.Nested) -> None:
    torch.testing.assert_close(tensor, torch.tensor(expected, dtype=tensor.dtype), atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("score", SCORES)
@given(size=sizes, seed=seeds, feed_forward=st.sampled_from([0, 3]), gate=st.booleans(), data=st.data())
def test_vectors_match_oracle(
    score: str, size: int, seed: int, feed_forward: int, gate: bool, data: st.DataObject
) -> None:
    attention = attention_of(seed, score=score, feed_forward=feed_forward, gate=gate)
    embeddings = tensors(seed, size, DIM)
    close(attention(embeddings)[0], oracles.sample_attention(attention, embeddings.tolist()))
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    expected = oracles.sample_attention(attention, embeddings.tolist(), mask.tolist())
    close(attention(embeddings, mask=mask)[0], expected)


@pytest.mark.parametrize(("score", "sequence"), READINGS)
@given(size=sizes, length=lengths, seed=seeds, data=st.data())
def test_sequences_match_oracle(
    score: str, sequence: str, size: int, length: int, seed: int, data: st.DataObject
) -> None:
    attention = attention_of(seed, score=score, sequence=sequence)
    embeddings, mask = tensors(seed, size, length, DIM), data.draw(masks(size, length))
    expected = oracles.sample_attention(attention, embeddings.tolist(), mask.tolist())
    close(attention(embeddings, mask=mask)[0], expected)
    close(attention(embeddings)[0], oracles.sample_attention(attention, embeddings.tolist()))


@pytest.mark.parametrize(("score", "sequence"), READINGS)
@given(size=sizes, length=lengths, seed=seeds, data=st.data())
def test_the_order_of_the_samples_does_not_matter(
    score: str, sequence: str, size: int, length: int, seed: int, data: st.DataObject
) -> None:
    attention = attention_of(seed, score=score, sequence=sequence)
    embeddings, mask = tensors(seed, size, length, DIM), data.draw(masks(size, length))
    order = torch.tensor(data.draw(st.permutations(range(size))))
    permuted = attention(embeddings[order], mask=mask[order])[0]
    torch.testing.assert_close(permuted, attention(embeddings, mask=mask)[0][order])


@pytest.mark.parametrize(("score", "sequence"), READINGS)
@given(size=sizes, length=lengths, seed=seeds, data=st.data())
def test_padding_has_no_effect_and_is_unchanged(
    score: str, sequence: str, size: int, length: int, seed: int, data: st.DataObject
) -> None:
    attention = attention_of(seed, score=score, sequence=sequence)
    embeddings, mask = tensors(seed, size, length, DIM), data.draw(masks(size, length))
    other_padding = torch.where(mask.unsqueeze(-1), embeddings, 5 * tensors(seed + 1, size, length, DIM))
    result, other = attention(embeddings, mask=mask)[0], attention(other_padding, mask=mask)[0]
    torch.testing.assert_close(other[mask], result[mask])
    assert torch.equal(other[~mask], other_padding[~mask])
    # More padding tokens and padding samples do not change the result.
    longer = torch.cat([embeddings, tensors(seed + 2, size, 2, DIM)], dim=1)
    more = torch.cat([longer, tensors(seed + 3, 1, length + 2, DIM)])
    wider = torch.nn.functional.pad(mask, (0, 2, 0, 1))
    torch.testing.assert_close(attention(more, mask=wider)[0][:size, :length], result)


@pytest.mark.parametrize("score", SCORES)
@given(size=sizes, length=lengths, seed=seeds, data=st.data())
def test_returned_weights_are_normalised_and_zero_on_padding(
    score: str, size: int, length: int, seed: int, data: st.DataObject
) -> None:
    attention = attention_of(seed, score=score)
    receiving = 1 if score == "shared" else size
    _, weights = attention(tensors(seed, size, DIM), need_attention=True)
    assert weights.shape == (2, receiving, size)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    mask = data.draw(masks(size, length))
    _, weights = attention(tensors(seed, size, length, DIM), mask=mask, need_attention=True)
    assert weights.shape == (length, 2, receiving, size)
    for position, real in enumerate(mask.T):
        if real.any():
            assert (weights[position][..., ~real] == 0).all()
    assert attention(tensors(seed, size, DIM))[1] is None


@pytest.mark.parametrize("score", SCORES)
def test_a_batch_of_one_attends_to_itself(score: str) -> None:
    attention = attention_of(score=score)
    embeddings = tensors(0, 1, DIM)
    assert attention(embeddings, need_attention=True)[1].tolist() == [[[1.0]], [[1.0]]]
    if score != "dot":
        given = (
            torch.zeros_like(embeddings) if score == "cosine" else embeddings
        )  # a single sample minus its own mean is 0
        update = attention.project_output(given.repeat(1, 2))
        torch.testing.assert_close(attention(embeddings)[0], attention.norm(update + embeddings))


def test_shared_gives_every_sample_the_same_context() -> None:
    embeddings = tensors(0, 5, DIM)
    for score, is_same in (("shared", True), ("additive", False)):
        attention = attention_of(score=score)
        attention.register_module("norm", nn.Identity())
        context = attention(embeddings)[0] - embeddings
        assert torch.allclose(context, context[:1].expand(5, -1)) == is_same


def test_cosine_attends_to_similar_samples_but_never_itself() -> None:
    torch.manual_seed(0)
    attention = SampleAttention(8, heads=1, score="cosine").double()
    nn.init.eye_(attention.project_key.weight)
    # Two directions around a mean shared by all samples.
    embeddings = 5 + torch.eye(8).double()[[0, 0, 1, 1]]
    weights = attention(embeddings, need_attention=True)[1][0]
    alike = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], dtype=torch.float64)
    torch.testing.assert_close(weights, alike, atol=1e-6, rtol=0)
    # Norms and the shared mean have no effect.
    torch.testing.assert_close(attention(3 * embeddings - 40, need_attention=True)[1][0], weights)
    assert attention.log_scale.bias.requires_grad


def test_gate_starts_at_layer_norm_of_the_input() -> None:
    torch.manual_seed(0)
    attention = SampleAttention(DIM, score="cosine", gate=True)
    embeddings = torch.randn(5, DIM)
    torch.testing.assert_close(attention(embeddings)[0], attention.norm(embeddings))
    nn.init.ones_(attention.gate.bias)
    assert not torch.allclose(attention(embeddings)[0], attention.norm(embeddings))
    attention.gate.reset_parameters()
    assert (attention.gate.bias == 0).all()


def test_sequence_options_differ() -> None:
    embeddings = tensors(0, 4, 3, DIM)
    results = [attention_of(sequence=sequence)(embeddings)[0] for sequence in ("pooled", "position", "sample")]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(results[first], results[second])


def test_sequence_sample_gives_all_tokens_the_same_update() -> None:
    attention = attention_of(sequence="sample", dropout=0.5).train()
    attention.register_module("norm", nn.Identity())
    embeddings, mask = tensors(0, 4, 3, DIM), torch.tensor([[True] * 3, [True, False, False], [True] * 3, [False] * 3])
    update = (attention(embeddings, mask=mask)[0] - embeddings)[mask]
    torch.testing.assert_close(update[:3], update[:1].expand(3, -1))
    torch.testing.assert_close(update[4:], update[4:5].expand(3, -1))
    weights = attention.eval()(embeddings, mask=mask, need_attention=True)[1]
    assert weights.shape == (2, 4, 4)
    assert (weights[..., 3] == 0).all()


def test_dot_with_feed_forward_is_a_transformer_layer() -> None:
    attention = SampleAttention(8, heads=4, score="dot", feed_forward=16).double().eval()
    layer = nn.TransformerEncoderLayer(8, 4, 16, batch_first=True).double().eval()
    projections = (attention.project_query, attention.project_key, attention.project_value)
    with torch.no_grad():
        for bias in (layer.self_attn.in_proj_bias, layer.self_attn.out_proj.bias):
            nn.init.normal_(bias)
        for part, projection in enumerate(projections):
            projection.weight.copy_(layer.self_attn.in_proj_weight[8 * part : 8 * part + 8])
            projection.bias.copy_(layer.self_attn.in_proj_bias[8 * part : 8 * part + 8])
    attention.project_output.load_state_dict(layer.self_attn.out_proj.state_dict())
    attention.norm.load_state_dict(layer.norm1.state_dict())
    attention.feed_forward.expand.load_state_dict(layer.linear1.state_dict())
    attention.feed_forward.contract.load_state_dict(layer.linear2.state_dict())
    attention.feed_forward.norm.load_state_dict(layer.norm2.state_dict())
    embeddings = tensors(0, 7, 8)
    torch.testing.assert_close(attention(embeddings)[0], layer(embeddings[None])[0])


@pytest.mark.parametrize("score", SCORES)
def test_large_batches_in_blocks_give_the_same_results(monkeypatch: pytest.MonkeyPatch, score: str) -> None:
    attention = attention_of(score=score)
    embeddings = tensors(0, 9, DIM).requires_grad_()
    results = []
    for block, tile in ((sample_attention.BLOCK_ELEMENTS, tiled.CPU_TILE), (50, 7)):
        monkeypatch.setattr(sample_attention, "BLOCK_ELEMENTS", block)
        monkeypatch.setattr(tiled, "CPU_TILE", tile)
        result = attention(embeddings)[0]
        learned = [embeddings, *attention.parameters()]
        results.append([result, *torch.autograd.grad(result.square().sum(), learned)])
    for plain, blocked in zip(*results, strict=True):
        torch.testing.assert_close(plain, blocked)


@pytest.mark.parametrize("score", SCORES)
def test_torch_func_works_for_batches_above_the_block_size(monkeypatch: pytest.MonkeyPatch, score: str) -> None:
    attention, embeddings = attention_of(score=score), tensors(0, 9, DIM)

    def loss(embeddings: Tensor) -> Tensor:
        result: Tensor = attention(embeddings)[0]
        return result.square().sum()

    expected = torch.func.grad(loss)(embeddings)
    monkeypatch.setattr(sample_attention, "BLOCK_ELEMENTS", 50)
    torch.testing.assert_close(torch.func.grad(loss)(embeddings), expected)


@pytest.mark.parametrize("score", SCORES)
def test_second_derivatives_are_right_for_batches_above_the_block_size(
    monkeypatch: pytest.MonkeyPatch, score: str
) -> None:
    attention, embeddings = attention_of(score=score), tensors(0, 5, DIM).requires_grad_()
    monkeypatch.setattr(sample_attention, "BLOCK_ELEMENTS", 20)
    monkeypatch.setattr(tiled, "CPU_TILE", 40)
    assert torch.autograd.gradgradcheck(lambda rows: attention(rows)[0], embeddings, fast_mode=True)


def test_block_rows_follow_from_the_element_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    attend = functional.sample_attention

    def watch(*arguments: Any, **options: Any) -> Tensor:
        seen.append(options["block_rows"])
        return attend(*arguments, **options)

    monkeypatch.setattr(functional, "sample_attention", watch)
    monkeypatch.setattr(sample_attention, "BLOCK_ELEMENTS", 100)
    attention_of()(tensors(0, 5, DIM))
    attention_of()(tensors(0, 5, 3, DIM))
    assert seen == [100 // (2 * 5), 100 // (2 * 5 * 3)]


def test_dropout_acts_on_every_update_before_its_residual(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def drop_everything(like: Tensor, rate: float, *, generator: Generator | None = None) -> Tensor:
        shapes.append(tuple(like.shape))
        return torch.zeros_like(like)

    monkeypatch.setattr(sampling, "draw_dropout", drop_everything)
    attention = attention_of(dropout=0.5, feed_forward=8).train()
    embeddings = tensors(0, 5, DIM)
    result = attention(embeddings)[0]
    assert shapes == [(5, DIM), (5, 8), (5, DIM)]
    torch.testing.assert_close(result, attention.feed_forward.norm(attention.norm(embeddings)))


def test_dropout_acts_in_training_only_and_draws_from_the_generator() -> None:
    attention = attention_of(dropout=0.5, feed_forward=8)
    embeddings = tensors(0, 5, DIM)
    still = attention(embeddings)[0]
    torch.testing.assert_close(attention(embeddings)[0], still)
    attention.train()
    before = torch.get_rng_state()
    first, again = (attention(embeddings, generator=torch.Generator().manual_seed(1))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, still)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.allclose(attention(embeddings)[0], first)
    torch.testing.assert_close(attention_of(dropout=0.0, feed_forward=8).train()(embeddings)[0], still)


@pytest.mark.parametrize(("score", "sequence"), READINGS)
def test_gradients_match_finite_differences(score: str, sequence: str) -> None:
    attention = attention_of(score=score, sequence=sequence, feed_forward=8, gate=True)
    mask = torch.tensor([[True, True], [True, False], [True, True], [False, False]])
    embeddings = tensors(0, 4, 2, DIM).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attention(x, mask=mask)[0], (embeddings,))
    attention(embeddings, mask=mask)[0].square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in attention.parameters())


def test_heads_need_not_divide_the_width() -> None:
    for score in SCORES:
        assert SampleAttention(7, heads=3, score=score)(torch.randn(4, 7))[0].shape == (4, 7)


WRONG = {
    "score must be one of 'additive', 'shared', 'dot', 'cosine', got 'linear'.": {"score": "linear"},
    "sequence must be one of 'pooled', 'position', 'sample', got 'mean'.": {"sequence": "mean"},
    "heads must be between 1 and dim = 6, got 0.": {"heads": 0},
    "heads must be between 1 and dim = 6, got 7.": {"heads": 7},
    "dropout must be in [0, 1), got 1.0.": {"dropout": 1.0},
    "dropout must be in [0, 1), got -0.1.": {"dropout": -0.1},
}


@pytest.mark.parametrize("message", WRONG)
def test_invalid_options_raise(message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SampleAttention(DIM, **WRONG[message])


def test_inputs_are_checked() -> None:
    attention = SampleAttention(DIM)
    with pytest.raises(ValueError, match=r"^embeddings must have shape \(B, 6\) or \(B, L, 6\) with B >= 1"):
        attention(torch.zeros(0, DIM))
    with pytest.raises(TypeError, match=r"use mask\.bool\(\)"):
        attention(torch.zeros(3, DIM), mask=torch.ones(3))
    with pytest.raises(TypeError, match=r"^embeddings has dtype torch\.float64, .* have torch\.float32: "):
        attention(torch.zeros(3, DIM).double())


def test_recomputation_with_a_generator_raises() -> None:
    attention, generator = SampleAttention(DIM, heads=2, dropout=0.5), torch.Generator()
    leaf = torch.zeros(3, DIM, requires_grad=True)
    loss = checkpoint(lambda rows: attention(rows, generator=generator)[0].sum(), leaf, use_reentrant=False)
    with pytest.raises(RuntimeError, match=r"ran again in a backward pass \(activation checkpointing\)"):
        loss.backward()


def test_default_is_four_heads_and_one_per_feature_is_the_most() -> None:
    assert SampleAttention(20).heads == 4
    assert SampleAttention(3, heads=3).heads == 3


def test_dropout_of_0_draws_nothing() -> None:
    generator = Generator().manual_seed(0)
    before = generator.get_state()
    SampleAttention(DIM, dropout=0)(torch.zeros(3, DIM), generator=generator)
    assert torch.equal(generator.get_state(), before)
