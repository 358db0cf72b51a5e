"""Every function compared with its oracle, and properties that hold for any input."""

import math
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import Tensor

from attnmixup import functional, tiled
from tests.attnmixup import oracles
from tests.attnmixup.strategies import lengths, masks, ratios, seeds, sizes, tensors

DIRECTIONS = ("text_to_image", "image_to_text", "symmetric")


def close(tensor: Tensor, expected: oracles.Nested) -> None:
    torch.testing.assert_close(tensor, torch.tensor(expected, dtype=tensor.dtype), atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(size=sizes, width=lengths, seed=seeds, temperature=st.floats(0.1, 10))
def test_semantic_kl_matches_oracle(direction: str, size: int, width: int, seed: int, temperature: float) -> None:
    text, image = 3 * tensors(seed, 2, size, width)
    loss = functional.semantic_kl(text, image, temperature=temperature, direction=direction)
    rows = zip(text.tolist(), image.tolist(), strict=True)
    close(loss, [oracles.semantic_kl(a, b, temperature, direction) for a, b in rows])


def test_semantic_kl_matches_hand_computed_value() -> None:
    loss = functional.semantic_kl(torch.zeros(1, 2).double(), torch.log(torch.tensor([[0.25, 0.75]])).double())
    close(loss, [0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)])


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(size=sizes, width=lengths, seed=seeds)
def test_semantic_kl_is_zero_only_for_equal_distributions(direction: str, size: int, width: int, seed: int) -> None:
    text, other = 3 * tensors(seed, 2, size, width)
    assert (functional.semantic_kl(text, text.clone(), direction=direction) == 0).all()
    different = functional.semantic_kl(text, other, direction=direction)
    assert (different >= -1e-12).all()
    apart = (text.softmax(-1) - other.softmax(-1)).abs().amax(-1) > 1e-3
    assert (different[apart] > 0).all()


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(row=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=6), seed=seeds)
@example(row=[3e38, -3e38], seed=0)
def test_semantic_kl_is_never_nan(direction: str, row: list[float], seed: int) -> None:
    text = torch.tensor(row)
    image = text[torch.randperm(len(row), generator=torch.Generator().manual_seed(seed))]
    for temperature in (0.01, 1.0):
        loss = functional.semantic_kl(text, image, temperature=temperature, direction=direction)
        assert not loss.isnan()
        assert loss >= -1e-6


def test_semantic_kl_is_computed_in_float32() -> None:
    text, image = torch.randn(4, 3000).half(), torch.randn(4, 3000).half()
    loss = functional.semantic_kl(text, image)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, functional.semantic_kl(text.float(), image.float()))
    assert functional.semantic_kl(text.double(), image.double()).dtype == torch.float64


def test_semantic_kl_gradient_is_finite_for_large_logits() -> None:
    text = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    image = torch.tensor([[-1e4, 1e4, 5.0]], requires_grad=True)
    functional.semantic_kl(text, image).sum().backward()
    assert text.grad.isfinite().all()
    assert image.grad.isfinite().all()


def test_huge_row_does_not_reduce_precision_of_other_rows() -> None:
    text, image = torch.tensor([[1e30, 0.0], [1.0, 0.0]]), torch.tensor([[1e30, 0.0], [0.0, 1.0]])
    alone = functional.semantic_kl(text[1:], image[1:])
    assert torch.equal(functional.semantic_kl(text, image)[1:], alone)
    assert alone > 0.1


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_pairwise_semantic_kl_matches_oracle(direction: str) -> None:
    text, image = tensors(0, 3, 5), tensors(1, 4, 5)
    pairs = functional.pairwise_semantic_kl(text, image, temperature=0.5, direction=direction)
    expected = [[oracles.semantic_kl(a, b, 0.5, direction) for b in image.tolist()] for a in text.tolist()]
    close(pairs, expected)
    default = functional.pairwise_semantic_kl(text, image)
    close(default, [[oracles.semantic_kl(a, b) for b in image.tolist()] for a in text.tolist()])


def test_standardized_uses_last_axis_and_maps_constants_to_zero() -> None:
    logits = tensors(0, 2, 3, 4)
    expected = [[oracles.standardized(row) for row in rows] for rows in logits.tolist()]
    close(functional.standardized(logits), expected)
    constant = torch.full((2, 3), 7.0, requires_grad=True)
    result = functional.standardized(constant)
    result.sum().backward()
    assert (result == 0).all()
    assert constant.grad.isfinite().all()


@given(size=sizes, length=lengths, seed=seeds, data=st.data())
def test_masked_mean_matches_oracle(size: int, length: int, seed: int, data: st.DataObject) -> None:
    tokens, mask = tensors(seed, size, length, 2), data.draw(masks(size, length))
    rows = zip(tokens.tolist(), mask.tolist(), strict=True)
    close(functional.masked_mean(tokens, mask), [oracles.masked_mean(*row) for row in rows])
    close(functional.masked_mean(tokens, None), [oracles.masked_mean(row, [True] * length) for row in tokens.tolist()])


def test_masked_mean_does_not_overflow_in_half_precision() -> None:
    tokens = torch.full((1, 40, 2), 3e4, dtype=torch.float16)
    for mask in (None, torch.ones(1, 40, dtype=torch.bool)):
        mean = functional.masked_mean(tokens, mask)
        assert mean.dtype == torch.float16
        torch.testing.assert_close(mean, tokens[:, 0])


def test_finite_padding_changes_only_nonfinite_padding() -> None:
    nan, inf = float("nan"), float("inf")
    embeddings = torch.tensor([[[1.0, nan], [nan, 2.0], [3.0, -inf], [3.0, 2.0]]], requires_grad=True)
    finite = functional.finite_padding(embeddings, torch.tensor([[True, False, False, False]]))
    torch.testing.assert_close(finite, torch.tensor([[[1.0, nan], [0, 0], [0, 0], [3.0, 2.0]]]), equal_nan=True)
    finite.sum().backward()
    assert embeddings.grad.tolist() == [[[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]]
    assert functional.finite_padding(embeddings, None) is embeddings


@given(rows=sizes, size=sizes, seed=seeds)
def test_additive_scores_match_oracle(rows: int, size: int, seed: int) -> None:
    query, key, vector = tensors(seed, 2, rows, 3), tensors(seed + 1, 2, size, 3), tensors(seed + 2, 2, 3)
    expected = [
        [[sum(v * math.tanh(a + b) for v, a, b in zip(vs, q, k, strict=True)) for k in keys] for q in queries]
        for queries, keys, vs in zip(query.tolist(), key.tolist(), vector.tolist(), strict=True)
    ]
    close(functional.additive_scores(query, key, vector), expected)


@given(rows=sizes, size=sizes, seed=seeds)
def test_dot_scores_match_oracle(rows: int, size: int, seed: int) -> None:
    query, key = tensors(seed, 2, rows, 3), tensors(seed + 1, 2, size, 3)
    expected = [
        [[sum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(3) for k in keys] for q in queries]
        for queries, keys in zip(query.tolist(), key.tolist(), strict=True)
    ]
    close(functional.dot_scores(query, key), expected)


@given(size=sizes, seed=seeds, data=st.data())
def test_attention_weights_are_a_distribution_over_real_samples(size: int, seed: int, data: st.DataObject) -> None:
    scores = 20 * tensors(seed, 2, size, size)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    assume(mask.any())
    weights = functional.attention_weights(scores, mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, size, dtype=weights.dtype))
    assert (weights[..., ~mask] == 0).all()
    expected = [[oracles.softmax([s for s, m in zip(row, mask, strict=True) if m]) for row in head] for head in scores]
    close(weights[..., mask], expected)


def test_attention_weights_without_real_samples_are_finite() -> None:
    assert functional.attention_weights(torch.randn(1, 2, 2), torch.zeros(2, dtype=torch.bool)).isfinite().all()


@given(size=sizes, block=st.integers(1, 10), groups=st.sampled_from([1, 2]), seed=seeds)
def test_block_rows_does_not_change_results(size: int, block: int, groups: int, seed: int) -> None:
    query, key, vector = tensors(seed, 2, size, 3), tensors(seed + 1, 2, size, 3), tensors(seed + 2, 2, 3)
    values = tensors(seed + 3, groups, size, 4)
    results = []
    for block_rows in (None, block):
        leaves = [tensor.clone().requires_grad_() for tensor in (query, key, vector, values)]

        def score(rows: Tensor, keys: Tensor, learned: Tensor = leaves[2]) -> Tensor:
            return functional.additive_scores(rows, keys, learned)

        context = functional.sample_attention(score, leaves[0], leaves[1], leaves[3], block_rows=block_rows)
        results.append([context, *torch.autograd.grad(context.square().sum(), leaves)])
    for plain, blocked in zip(*results, strict=True):
        torch.testing.assert_close(plain, blocked)


def test_block_rows_computes_one_block_at_a_time() -> None:
    held: list[int] = []

    def score(query: Tensor, key: Tensor) -> Tensor:
        held.append(query.shape[-2])
        return functional.dot_scores(query, key)

    query = torch.randn(1, 7, 2, requires_grad=True)
    context = functional.sample_attention(score, query, query, query, block_rows=3)
    assert held == [3, 3, 1]
    context.sum().backward()
    assert held == [3, 3, 1, 1, 3, 3]


@given(size=sizes, seed=seeds, data=st.data())
def test_interpolate_matches_oracle(size: int, seed: int, data: st.DataObject) -> None:
    first, second = tensors(seed, 2, size, 4)
    lam = torch.tensor(data.draw(st.lists(ratios, min_size=size, max_size=size)), dtype=torch.float64)
    rows = zip(first.tolist(), second.tolist(), lam.tolist(), strict=True)
    mixed = functional.interpolate(first, second, lam)
    close(mixed, [oracles.interpolate(*row) for row in rows])
    assert (mixed <= torch.maximum(first, second) + 1e-12).all()
    assert (mixed >= torch.minimum(first, second) - 1e-12).all()


@given(size=sizes, length=lengths, seed=seeds, data=st.data())
def test_interpolate_tokens_matches_oracle(size: int, length: int, seed: int, data: st.DataObject) -> None:
    first, second = tensors(seed, 2, size, length, 2)
    first_mask, second_mask = data.draw(masks(size, length)), data.draw(masks(size, length))
    lam = torch.tensor(data.draw(st.lists(ratios, min_size=size, max_size=size)), dtype=torch.float64)
    mixed = functional.interpolate(first, second, lam, first_mask=first_mask, second_mask=second_mask)
    columns = [tensor.tolist() for tensor in (first, second, lam, first_mask, second_mask)]
    close(mixed, [oracles.interpolate_tokens(*row) for row in zip(*columns, strict=True)])


def test_single_block_is_not_recomputed() -> None:
    held: list[int] = []

    def score(query: Tensor, key: Tensor) -> Tensor:
        held.append(query.shape[-2])
        return functional.dot_scores(query, key)

    query = torch.randn(1, 7, 2, requires_grad=True)
    for block_rows in (7, 9):
        functional.sample_attention(score, query, query, query, block_rows=block_rows).sum().backward()
    assert held == [7, 7]


@pytest.mark.parametrize("limit", [119, 120])
def test_additive_scores_use_tiles_above_the_limit(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(tiled, "CPU_TILE", limit)
    monkeypatch.setattr(tiled, "tiled_additive_scores", lambda *tensors: "in tiles")
    scores = functional.additive_scores(torch.zeros(2, 5, 4), torch.zeros(2, 3, 4), torch.zeros(2, 4))
    assert (scores == "in tiles") is (limit == 119)


@given(size=sizes, seed=seeds)
def test_lambda_weights_the_first_sample(size: int, seed: int) -> None:
    first, second = tensors(seed, 2, size, 4)
    assert torch.equal(functional.interpolate(first, second, torch.ones(size)), first)
    assert torch.equal(functional.interpolate(first, second, torch.zeros(size)), second)
    mostly_first = functional.interpolate(torch.ones(size, 1), torch.zeros(size, 1), torch.full((size,), 0.9))
    torch.testing.assert_close(mostly_first, torch.full((size, 1), 0.9))


@given(size=sizes, seed=seeds)
def test_interpolated_targets_sum_to_one(size: int, seed: int) -> None:
    lam = tensors(seed, size).sigmoid()
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randint(3, (size,), generator=generator) for _ in range(2))
    soft = functional.interpolate_targets(first, second, lam, 3)
    torch.testing.assert_close(soft.sum(-1), torch.ones_like(lam))
    for row, a, b, share in zip(soft.tolist(), first.tolist(), second.tolist(), lam.tolist(), strict=True):
        expected = [0.0, 0.0, 0.0]
        expected[a] += share
        expected[b] += 1 - share
        assert row == pytest.approx(expected)
    vectors = functional.interpolate_targets(soft, soft.flip(0), lam, 3)
    torch.testing.assert_close(vectors, functional.interpolate(soft, soft.flip(0), lam))


def test_interpolate_targets_of_tokens() -> None:
    first, second = torch.tensor([[0, 1, -100]]), torch.tensor([[2, 2, 2]])
    first_mask, second_mask = torch.tensor([[True, True, True]]), torch.tensor([[True, False, False]])
    soft = functional.interpolate_targets(
        first, second, torch.tensor([0.25]), 3, first_mask=first_mask, second_mask=second_mask
    )
    assert soft.tolist() == [[[0.25, 0, 0.75], [0, 1, 0], [0, 0, 0]]]


def test_soft_targets_stay_on_device_of_labels() -> None:
    labels = torch.zeros(3, dtype=torch.long, device="meta")
    assert functional.interpolate_targets(labels, labels, torch.zeros(3, device="meta"), 2).shape == (3, 2)


ERRORS: dict[str, tuple[Callable[[], Tensor], str]] = {
    "different numbers of features": (
        lambda: functional.semantic_kl(torch.zeros(2, 3), torch.zeros(2, 4)),
        "text and image must be logits over the same features, got shapes (2, 3) and (2, 4); project one of them "
        "first.",
    ),
    "different shapes of samples": (
        lambda: functional.interpolate(torch.zeros(3, 2), torch.zeros(3, 4), torch.zeros(3)),
        "first and second must have one shape (M, ...) and lam shape (M,), got (3, 2), (3, 4) and (3,).",
    ),
    "too few lambdas": (
        lambda: functional.interpolate(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(1)),
        "first and second must have one shape (M, ...) and lam shape (M,), got (3, 2), (3, 2) and (1,).",
    ),
    "wrong number of classes": (
        lambda: functional.interpolate_targets(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2), 4),
        "Expected targets over num_classes=4, got shape (2, 3).",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, message = ERRORS[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@given(size=sizes, seed=seeds)
def test_mixed_loss_equals_loss_of_mixed_targets(size: int, seed: int) -> None:
    logits, lam = tensors(seed, size, 3), tensors(seed, size).sigmoid()
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randint(3, (size,), generator=generator) for _ in range(2))
    losses = [torch.nn.functional.cross_entropy(logits, labels, reduction="none") for labels in (first, second)]
    soft = functional.interpolate_targets(first, second, lam, 3)
    expected = torch.nn.functional.cross_entropy(logits, soft, reduction="none")
    torch.testing.assert_close(functional.mixed_loss(*losses, lam), expected)


def test_real_row_weights_sum_to_one_for_any_original_share() -> None:
    half, zero = torch.tensor(0.5), torch.tensor(0.0)
    assert functional.row_weights(torch.ones(2), (1, 0, 1), half, original_share=half, apart=True).tolist() == [1, 0.5]
    assert functional.row_weights(torch.ones(2), (1, 0, 1), half, original_share=zero, apart=True).tolist() == [0, 0.5]


@pytest.mark.parametrize("apart", [False, True])
@given(
    counts=st.tuples(sizes, st.integers(0, 9), st.integers(0, 9)),
    strength=ratios,
    ratio=st.none() | ratios,
    data=st.data(),
)
def test_row_weights_match_oracle(
    apart: bool, counts: tuple[int, int, int], strength: float, ratio: float | None, data: st.DataObject
) -> None:
    valid = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=sum(counts), max_size=sum(counts)))
    assume(any(valid[: counts[0]]) or not any(valid))
    original = None if ratio is not None else data.draw(st.sampled_from([None, 1 - strength]))
    assume(original is None or (counts[2] >= 1 and all(valid[counts[0] :])))
    weights = functional.row_weights(
        torch.tensor(valid, dtype=torch.float64),
        counts,
        torch.tensor(strength, dtype=torch.float64),
        transformed_ratio=ratio,
        original_share=None if original is None else torch.tensor(original, dtype=torch.float64),
        apart=apart,
    )
    kinds = "o" * counts[0] + "t" * counts[1] + "s" * counts[2]
    close(weights, oracles.row_weights(valid, kinds, strength, ratio, apart, 1 if original is None else original))


def test_semantic_contrast_is_negative_log_share_of_own_image() -> None:
    divergences = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.5, 4.0], [9.0, 1.0, 1.0]]).double()
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, False]])
    rows, masks = divergences.tolist(), mask.tolist()
    shares = [oracles.softmax([-d for d in row])[i] for i, row in enumerate(rows)]
    close(functional.semantic_contrast(divergences), [-math.log(share) for share in shares])
    kept = [[-d for j, d in enumerate(row) if masks[i][j] or j == i] for i, row in enumerate(rows)]
    shares = [math.exp(-rows[i][i]) / sum(math.exp(logit) for logit in row) for i, row in enumerate(kept)]
    close(functional.semantic_contrast(divergences, mask), [-math.log(share) for share in shares])


def test_centred_samples_have_zero_mean() -> None:
    samples = tensors(0, 2, 4, 3) + 7
    mask = torch.tensor([[True, True, False, True], [False] * 4])
    torch.testing.assert_close(functional.centred(samples), samples - samples.mean(1, keepdim=True))
    expected = torch.stack([samples[0] - samples[0][mask[0]].mean(0), samples[1]])
    torch.testing.assert_close(functional.centred(samples, mask), expected)
    assert functional.centred(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    damaged = samples.masked_fill(~mask.unsqueeze(-1), torch.nan)
    torch.testing.assert_close(functional.centred(damaged, mask)[mask], expected[mask])


@given(size=sizes, seed=seeds)
def test_cosine_scores_match_oracle(size: int, seed: int) -> None:
    query, key, scale = tensors(seed, 2, 3, 4), tensors(seed + 1, 2, size, 4), torch.tensor([2.0, 0.5]).double()
    key[:, 0] = 0
    expected = [
        [
            [
                s * sum(x * y for x, y in zip(q, k, strict=True)) / (oracles.norm(q) * oracles.norm(k))
                for k in key[head].tolist()
            ]
            for q in query[head].tolist()
        ]
        for head, s in enumerate(scale.tolist())
    ]
    close(functional.cosine_scores(query, key, scale), expected)


def test_row_weights_average_together_by_default() -> None:
    weights = functional.row_weights(torch.ones(4), (2, 1, 1), torch.tensor(1.0))
    assert weights.tolist() == [0.25] * 4


def test_gradients_match_finite_differences() -> None:
    text, image = tensors(0, 2, 3, 4).requires_grad_(), tensors(1, 2, 3, 4).requires_grad_()
    for direction in DIRECTIONS:
        assert torch.autograd.gradcheck(
            lambda a, b, way=direction: functional.semantic_kl(a, b, direction=way), (text, image)
        )
    query, key, vector = (
        tensors(seed, *shape).requires_grad_() for seed, shape in enumerate([(2, 3, 2)] * 2 + [(2, 2)])
    )
    assert torch.autograd.gradcheck(functional.additive_scores, (query, key, vector))
    assert torch.autograd.gradcheck(functional.dot_scores, (query, key))
    scale = torch.tensor([2.0, 0.5]).double().requires_grad_()
    assert torch.autograd.gradcheck(functional.cosine_scores, (query, key, scale))
    values = tensors(5, 1, 3, 2).requires_grad_()
    mask = torch.tensor([True, False, True])
    assert torch.autograd.gradcheck(
        lambda q, k, v: functional.sample_attention(functional.dot_scores, q, k, v, mask=mask), (query, key, values)
    )
    first, second, lam = (tensors(seed, *shape).requires_grad_() for seed, shape in enumerate([(3, 2), (3, 2), (3,)]))
    assert torch.autograd.gradcheck(functional.interpolate, (first, second, lam))
