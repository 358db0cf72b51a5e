"""The mixed batch: losses of every kind of target, soft targets, and other tensors of the samples."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from attnmixup import AttnMixup, MixedBatch, Origin
from attnmixup.criteria import Criterion, MeanOver
from tests.attnmixup import oracles
from tests.attnmixup.strategies import CLASSES, DIM, Case, cases, seeds, tensors


def mixed_of(case: Case, **options: Any) -> MixedBatch:
    torch.manual_seed(0)
    mixer = AttnMixup(DIM, heads=2, **options).double()
    mixed: MixedBatch = mixer(case.embeddings, case.targets, mask=case.mask, generator=case.generator)
    return mixed


def outputs_for(mixed: MixedBatch, kind: str) -> Tensor:
    shape = {"regression": (), "tags": (mixed.embeddings.shape[1], CLASSES)}.get(kind, (CLASSES,))
    return tensors(7, len(mixed.lam), *shape)


def loss_of_row(kind: str, output: Any, target: Any, mask: list[bool] | None) -> float:
    """Compute the loss of one row for one target in plain Python."""
    if kind == "class":
        return oracles.cross_entropy(output, target)
    if kind == "soft":
        return float(sum(share * oracles.cross_entropy(output, label) for label, share in enumerate(target)))
    if kind == "regression":
        return float((output - target) ** 2)
    if kind == "multilabel":
        losses = [oracles.cross_entropy([0.0, x], int(y)) for x, y in zip(output, target, strict=True)]
        return sum(losses) / len(losses)
    losses = [oracles.cross_entropy(x, y) for x, y, real in zip(output, target, mask, strict=True) if real]
    return sum(losses) / len(losses) if losses else 0.0


CRITERIA: dict[str, Criterion] = {
    "class": F.cross_entropy,
    "soft": F.cross_entropy,
    "multilabel": F.binary_cross_entropy_with_logits,
    "regression": F.mse_loss,
    "tags": F.cross_entropy,
}


@given(case=cases(), averaging=st.sampled_from(["together", "apart"]), mean_over=st.sampled_from(["tokens", "rows"]))
def test_loss_matches_oracle(case: Case, averaging: str, mean_over: MeanOver) -> None:
    mixed = mixed_of(case, averaging=averaging)
    outputs, weights = outputs_for(mixed, case.kind), mixed.weight.tolist()
    means, totals, norms = [], [], []
    for row, output in enumerate(outputs.tolist()):
        sides = []
        for targets, mask in ((mixed.targets_a, mixed.mask_a), (mixed.targets_b, mixed.mask_b)):
            row_mask = None if mask is None else mask[row].tolist()
            loss = loss_of_row(case.kind, output, targets[row].tolist(), row_mask) if weights[row] else 0.0
            sides.append((loss, (1 if mask is None else sum(row_mask)) if weights[row] else 0))
        lam = float(mixed.lam[row])
        (first, of_first), (second, of_second) = sides
        means.append(lam * first + (1 - lam) * second)
        if mean_over == "rows":
            of_first, of_second = min(1, of_first), min(1, of_second)
        totals.append(lam * first * of_first + (1 - lam) * second * of_second)
        norms.append(lam * of_first + (1 - lam) * of_second)
    rows = mixed.loss(CRITERIA[case.kind], outputs, reduction="none")
    torch.testing.assert_close(rows.tolist(), means, atol=1e-7, rtol=1e-6)
    last_real = len(means) - mixed.num_synthetic
    expected = 0.0
    for part in [range(last_real), range(last_real, len(means))] if averaging == "apart" else [range(len(means))]:
        norm = sum(weights[row] * norms[row] for row in part)
        if norm:
            share = sum(weights[row] for row in part)
            expected += share * sum(weights[row] * totals[row] for row in part) / norm
    mean = mixed.loss(CRITERIA[case.kind], outputs, mean_over=mean_over)
    assert float(mean) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    of_originals = sum(norms[: len(case.embeddings)])
    total = mixed.loss(CRITERIA[case.kind], outputs, mean_over=mean_over, reduction="sum")
    assert float(total) == pytest.approx(expected * of_originals, rel=1e-5, abs=1e-7)


@given(case=cases(kinds=("tags",)))
def test_criterion_per_row_gets_the_mask(case: Case) -> None:
    mixed = mixed_of(case)
    outputs = outputs_for(mixed, "tags")

    def likelihood(logits: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        losses = F.cross_entropy(logits.transpose(1, 2), tags, reduction="none")
        return (losses * mask).sum(1) / mask.sum(1)

    expected = mixed.loss(F.cross_entropy, outputs, mean_over="rows")
    torch.testing.assert_close(mixed.loss(likelihood, outputs), expected)


@given(case=cases(kinds=("class",)))
def test_criteria_may_be_functions_partials_modules_or_lambdas(case: Case) -> None:
    mixed = mixed_of(case)
    outputs = outputs_for(mixed, "class")
    expected = mixed.loss(F.cross_entropy, outputs)
    for criterion in (
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(reduction="none"),
        partial(F.cross_entropy, label_smoothing=0.0),
        partial(F.cross_entropy, reduction="none"),
        lambda logits, labels: F.cross_entropy(logits, labels, reduction="none"),
    ):
        torch.testing.assert_close(mixed.loss(criterion, outputs), expected)
    smooth = mixed.loss(partial(F.cross_entropy, label_smoothing=0.5), outputs, reduction="none")
    plain = mixed.loss(F.cross_entropy, outputs, reduction="none")
    assert torch.equal(smooth, plain) == bool((mixed.weight == 0).all())


def test_only_synthetic_rows_are_scored_twice() -> None:
    mixed = AttnMixup(DIM)(torch.randn(10, DIM), torch.arange(10))
    scored = []

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        scored.append(len(targets))
        return outputs.new_zeros(len(targets))

    mixed.loss(criterion, torch.zeros(20, 3))
    assert scored == [20, 4]
    evaluated = AttnMixup(DIM).eval()(torch.randn(10, DIM), torch.arange(10))
    evaluated.loss(criterion, torch.zeros(10, 3))
    assert scored == [20, 4, 10]


def test_loss_in_evaluation_is_the_plain_loss() -> None:
    embeddings, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    mixed = AttnMixup(3, heads=1).eval()(embeddings, targets)
    torch.testing.assert_close(mixed.loss(F.cross_entropy, embeddings), F.cross_entropy(embeddings, targets))
    masked = AttnMixup(3, heads=1).eval()(embeddings, targets, mask=torch.arange(5) < 3)
    torch.testing.assert_close(masked.loss(F.cross_entropy, embeddings), F.cross_entropy(embeddings[:3], targets[:3]))


def test_targets_can_have_their_own_tokens_and_mask() -> None:
    torch.manual_seed(0)
    targets, target_mask = torch.randint(3, (4, 2)), torch.tensor([[True, True], [True, False]] * 2)
    mixed = AttnMixup(DIM)(
        torch.randn(4, 5, DIM), targets, mask=torch.ones(4, 5, dtype=torch.bool), target_mask=target_mask
    )
    assert torch.equal(mixed.mask_a, target_mask[mixed.index_a])
    assert torch.equal(mixed.mask_b, target_mask[mixed.index_b])
    assert mixed.mask.shape == (8, 5)
    outputs = torch.randn(8, 2, 3)
    rows = mixed.loss(F.cross_entropy, outputs, reduction="none")
    assert float(rows[1]) == pytest.approx(float(F.cross_entropy(outputs[1, :1], targets[1, :1])))


def test_float_targets_of_mask_shape_are_token_values_by_default() -> None:
    mask = torch.tensor([[True, False, False]] * 4)
    mixer, embeddings, targets, outputs = AttnMixup(DIM), torch.randn(4, 3, DIM), torch.rand(4, 3), torch.randn(8, 3)
    with pytest.warns(UserWarning, match="taken as one value per token"):
        mixed = mixer(embeddings, targets, mask=mask)
    rows = mixed.loss(F.mse_loss, outputs, reduction="none")
    torch.testing.assert_close(rows[0], (outputs[0, 0] - mixed.targets_a[0, 0]) ** 2)
    mixed = mixer(embeddings, targets, mask=mask, target_mask=torch.ones_like(mask))
    rows = mixed.loss(F.binary_cross_entropy_with_logits, outputs, reduction="none")
    torch.testing.assert_close(rows[0], F.binary_cross_entropy_with_logits(outputs[0], mixed.targets_a[0]))


def test_multi_label_integer_tokens_respect_the_mask() -> None:
    mask = torch.tensor([[True, False, False]] * 4)
    mixed = AttnMixup(DIM)(torch.randn(4, 3, DIM), torch.randint(2, (4, 3, 5)), mask=mask)
    outputs = torch.randn(8, 3, 5)
    rows = mixed.loss(F.binary_cross_entropy_with_logits, outputs, reduction="none")
    expected = F.binary_cross_entropy_with_logits(outputs[0, 0], mixed.targets_a[0, 0].float())
    torch.testing.assert_close(rows[0], expected)


def test_several_heads_share_one_mixed_batch() -> None:
    intents, slots, mask = (
        torch.arange(4),
        torch.randint(3, (4, 3)),
        torch.arange(3) < torch.tensor([[3], [1], [2], [3]]),
    )
    mixer, embeddings = AttnMixup(DIM), torch.randn(4, DIM)
    plan = mixer.draw(4)
    mixed = mixer(embeddings, intents, plan=plan)
    with_slots = mixer(embeddings, slots, target_mask=mask, plan=plan)
    outputs = torch.randn(8, 3, 5)
    for options in ({}, {"mean_over": "rows"}, {"reduction": "none"}):
        loss = mixed.loss(F.cross_entropy, outputs, targets=slots, target_mask=mask, **options)
        torch.testing.assert_close(loss, with_slots.loss(F.cross_entropy, outputs, **options))


@given(case=cases())
def test_take_returns_values_of_both_sources(case: Case) -> None:
    mixed = mixed_of(case)
    first, second = mixed.take(case.targets)
    assert torch.equal(first, mixed.targets_a)
    assert torch.equal(second, mixed.targets_b)


@given(case=cases(kinds=("class", "soft", "tags")))
def test_soft_targets_weight_both_sources_by_lambda(case: Case) -> None:
    mixed = mixed_of(case)
    soft = mixed.soft_targets(CLASSES)
    lam, last = mixed.lam.tolist(), range(len(mixed.lam))
    if case.kind == "tags":
        for row, token in ((row, token) for row in last for token in range(soft.shape[1])):
            expected = [0.0] * CLASSES
            real_a, real_b = bool(mixed.mask_a[row, token]), bool(mixed.mask_b[row, token])
            share = lam[row] if real_a and real_b else float(not real_b or real_a)
            expected[int(mixed.targets_a[row, token])] += share
            expected[int(mixed.targets_b[row, token])] += 1 - share
            assert soft[row, token].tolist() == pytest.approx(expected)
        return
    for row in last:
        sides = [mixed.targets_a[row], mixed.targets_b[row]]
        if case.kind == "class":
            sides = [F.one_hot(side, CLASSES) for side in sides]
        expected = oracles.interpolate(sides[0].tolist(), sides[1].tolist(), lam[row])
        assert soft[row].tolist() == pytest.approx(expected)


def test_soft_target_is_unmixed_if_only_one_source_has_the_token() -> None:
    mixed = AttnMixup(DIM).eval()(torch.randn(1, 3, DIM), torch.tensor([[0, 0, 0]]), mask=torch.ones(1, 3) > 0)
    ones = torch.ones_like(mixed.targets_a)
    only_a, only_b = torch.tensor([[True, True, False]]), torch.tensor([[True, False, True]])
    mixed = replace(mixed, targets_b=ones, lam=torch.tensor([0.75]), mask_a=only_a, mask_b=only_b)
    assert mixed.soft_targets(2).tolist() == [[[0.75, 0.25], [1.0, 0.0], [0.0, 1.0]]]


@given(case=cases(), seed=seeds)
def test_originals_return_the_input_batch(case: Case, seed: int) -> None:
    mixed = mixed_of(case)
    assert torch.equal(mixed.originals(mixed.embeddings), case.embeddings)
    assert torch.equal(mixed.originals(mixed.targets_a), case.targets)
    carried = torch.arange(len(case.embeddings)) * 10
    assert torch.equal(mixed.originals(carried[mixed.index_a]), carried)


def test_stats_are_plain_floats() -> None:
    mixed = AttnMixup(DIM)(torch.randn(10, DIM))
    stats = mixed.stats()
    assert all(type(value) is float for value in stats.values())
    assert stats["rows/original"] == 10
    assert stats["rows/transformed"] == 6
    assert stats["rows/synthetic"] == 4
    assert stats["weight/synthetic"] == pytest.approx(0.2)
    assert stats["lam/mean"] == pytest.approx(float(mixed.lam[16:].mean()))
    assert set(AttnMixup(DIM).eval()(torch.randn(2, DIM)).stats()) == set(stats) - {"lam/mean"}


def test_stats_wait_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed, waits = AttnMixup(DIM)(torch.randn(10, DIM)), []
    for name in ("tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"):
        own = getattr(torch.Tensor, name)

        def wait(tensor: Tensor, *arguments: Any, name: str = name, own: Callable[..., Any] = own) -> Any:
            waits.append(name)
            return own(tensor, *arguments)

        monkeypatch.setattr(torch.Tensor, name, wait)
    mixed.stats()
    assert waits == ["tolist"]


def test_origin_values_are_fixed() -> None:
    assert [(origin.name, int(origin)) for origin in Origin] == [("ORIGINAL", 0), ("TRANSFORMED", 1), ("SYNTHETIC", 2)]


@dataclass(frozen=True)
class Ranks:
    """Stand-in for two ranks, where the other rank has the negated samples."""

    def gather(self, tensor: Tensor) -> list[Tensor]:
        return [torch.cat([-tensor, tensor])]

    def mean(self, sums: Tensor) -> Tensor:
        return 2 * sums


def test_global_batch_takes_from_all_ranks_and_averages_denominators() -> None:
    mixed = AttnMixup(DIM)(torch.randn(3, DIM), torch.arange(3))
    everywhere = replace(mixed, index_a=mixed.index_a + 3, index_b=(mixed.index_b + 3) % 6, ranks=Ranks())
    numbers = torch.tensor([7, 8, 9])
    first, second = everywhere.take(numbers)
    assert torch.equal(first, numbers[mixed.index_a])
    assert torch.equal(second, numbers[mixed.index_b])
    first, second = replace(everywhere, index_a=mixed.index_a).take(numbers)
    assert torch.equal(first, -numbers[mixed.index_a])
    outputs = torch.randn(6, 3)
    for reduction, times in (("mean", 1), ("sum", 2)):
        plain, shared = (batch.loss(F.cross_entropy, outputs, reduction=reduction) for batch in (mixed, everywhere))
        torch.testing.assert_close(shared, times * plain)


@pytest.mark.parametrize("criterion", [F.cross_entropy, partial(F.cross_entropy, reduction="none")])
def test_originals_of_weight_0_count_in_sum_and_have_row_losses(criterion: Criterion) -> None:
    per = None if criterion is F.cross_entropy else "row"
    mixed = AttnMixup(DIM, preset="manifold_mixup")(torch.randn(5, DIM), torch.arange(5))
    outputs = torch.randn(len(mixed.lam), 5)
    mean, total, rows = (mixed.loss(criterion, outputs, per=per, reduction=how) for how in ("mean", "sum", "none"))
    torch.testing.assert_close(total, 5 * mean)
    torch.testing.assert_close(rows[:5], F.cross_entropy(outputs[:5], torch.arange(5), reduction="none"))


@pytest.mark.parametrize("training", [True, False])
def test_other_targets_of_the_same_tokens_respect_the_mask(training: bool) -> None:
    mask = torch.arange(4) < torch.tensor([[4], [2], [0]])
    tags = torch.randint(CLASSES, (3, 4))
    mixed = AttnMixup(DIM).train(training)(torch.randn(3, 4, DIM), tags, mask=mask)
    outputs = torch.randn(len(mixed.lam), 4, CLASSES).masked_fill(~mixed.mask[..., None], math.nan)
    expected = mixed.loss(F.cross_entropy, outputs)
    assert expected.isfinite()
    assert torch.equal(mixed.loss(F.cross_entropy, outputs, targets=tags), expected)
    assert mixed.loss(F.cross_entropy, torch.randn(len(mixed.lam), 3), targets=torch.arange(3)).isfinite()


ERRORS: dict[str, tuple[Callable[..., object], str]] = {
    "no targets": (
        lambda mixed: replace(mixed, targets_a=None, targets_b=None).loss(F.cross_entropy, torch.zeros(10, 5)),
        "This batch has no targets: pass them to AttnMixup, as in mixer(embeddings, targets).",
    ),
    "targets of one source": (
        lambda mixed: replace(mixed, targets_b=None).loss(F.cross_entropy, torch.zeros(10, 5)),
        "This batch has no targets: pass them to AttnMixup, as in mixer(embeddings, targets).",
    ),
    "no soft targets": (
        lambda mixed: replace(mixed, targets_a=None, targets_b=None).soft_targets(5),
        "This batch has no targets: pass them to AttnMixup, as in mixer(embeddings, targets).",
    ),
    **{
        f"outputs {shape}": (
            lambda mixed, shape=shape: mixed.loss(F.cross_entropy, torch.zeros(shape)),
            f"outputs must have 10 rows, one for each of mixed.embeddings, got {shape}.",
        )
        for shape in [(5, 5), ()]
    },
    "reduction": (
        lambda mixed: mixed.loss(F.cross_entropy, torch.zeros(10, 5), reduction="max"),
        "reduction must be one of 'mean', 'sum', 'none', got 'max'.",
    ),
    "mean over": (
        lambda mixed: mixed.loss(F.cross_entropy, torch.zeros(10, 5), mean_over="samples"),
        "mean_over must be one of 'tokens', 'rows', got 'samples'.",
    ),
    "originals": (lambda mixed: mixed.originals(torch.zeros(5)), "Expected 10 rows, got a tensor of shape (5,)."),
    "take": (
        lambda mixed: mixed.take(torch.zeros(10)),
        "Expected one row for each of 5 samples, got (10,).",
    ),
    "target mask without targets": (
        lambda mixed: mixed.loss(F.cross_entropy, torch.zeros(10, 5), target_mask=torch.ones(5, 1) > 0),
        "target_mask needs targets: pass both or neither.",
    ),
    "target mask of wrong shape": (
        lambda mixed: mixed.loss(
            F.cross_entropy, torch.zeros(10, 3, 5), targets=torch.zeros(5, 3).long(), target_mask=torch.ones(5, 2) > 0
        ),
        "target_mask must have shape (5, 3), got (5, 2).",
    ),
    "labels above num_classes": (lambda mixed: mixed.soft_targets(4), "Labels must be below num_classes=4."),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, message = ERRORS[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(AttnMixup(DIM)(torch.randn(5, DIM), torch.arange(5)))


def test_soft_targets_keep_targets_that_are_distributions() -> None:
    targets = torch.rand(4, 3).softmax(dim=-1)
    mixed = AttnMixup(dim=8).eval()(torch.randn(4, 8), targets)
    assert torch.equal(mixed.soft_targets(3), targets)
