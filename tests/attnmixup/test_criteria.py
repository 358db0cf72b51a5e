"""Criteria: PyTorch losses, custom losses per row or per element, and what they must ignore."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from attnmixup import AttnMixup, MixedBatch, criteria
from attnmixup.criteria import Criterion, MeanOver, Per, Reduction, reduction_of, row_losses
from tests.attnmixup.strategies import DIM, ratios, seeds, tensors

CLASSES = 4
WEIGHTS = torch.tensor([1.0, 0.2, 3.0, 0.5], dtype=torch.float64)
OF_CLASSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "class weights": {"weight": WEIGHTS},
    "smoothing": {"label_smoothing": 0.2},
    "weights and smoothing": {"weight": WEIGHTS, "label_smoothing": 0.2},
    "another ignored label": {"ignore_index": 1},
    "sum": {"reduction": "sum", "weight": WEIGHTS},
}


def mixed_of(
    targets: Tensor,
    *,
    length: int | None = None,
    seed: int = 0,
    strength: float = 1.0,
    train: bool = True,
    mask: Tensor | None = None,
    **options: Any,
) -> MixedBatch:
    """Mix random embeddings with the given targets."""
    torch.manual_seed(0)
    mixer = AttnMixup(DIM, heads=2, **options).double().train(train)
    mixer.set_strength(strength)
    shape = (len(targets), DIM) if length is None else (len(targets), length, DIM)
    generator = torch.Generator().manual_seed(seed)
    mixed: MixedBatch = mixer(tensors(seed, *shape), targets, mask=mask, generator=generator)
    return mixed


def labels_of(seed: int, *shape: int, ignored: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < ignored] = -100
    labels.flatten()[0] = 2
    return labels


@pytest.mark.parametrize("name", OF_CLASSES)
@pytest.mark.parametrize("by_token", [False, True])
@given(seed=seeds, size=st.integers(1, 6))
def test_loss_without_mixing_equals_pytorch(name: str, by_token: bool, seed: int, size: int) -> None:
    options = OF_CLASSES[name]
    labels = labels_of(seed, size, 3) if by_token else labels_of(seed, size)
    if "ignore_index" in options:
        labels[labels == -100] = 1
    outputs = tensors(seed, *labels.shape, CLASSES)
    expected = F.cross_entropy(outputs.reshape(-1, CLASSES), labels.reshape(-1), **options)
    for arguments in ({"train": False}, {"strength": 0.0}):
        mixed = mixed_of(labels, length=3 if by_token else None, **arguments)
        for criterion in (partial(F.cross_entropy, **options), nn.CrossEntropyLoss(**options)):
            torch.testing.assert_close(mixed.loss(criterion, outputs), expected)


@pytest.mark.parametrize("averaging", ["together", "apart"])
@given(seed=seeds, strength=st.floats(0.01, 1))
def test_mixed_rows_contribute_to_numerator_and_denominator(averaging: str, seed: int, strength: float) -> None:
    """Compare class weights and ignored labels with a loop over rows."""
    labels = labels_of(seed, 6)
    mixed = mixed_of(labels, seed=seed, strength=strength, averaging=averaging)
    outputs = tensors(seed, len(mixed.lam), CLASSES)
    sums = {"real": [0.0, 0.0, 0.0], "synthetic": [0.0, 0.0, 0.0]}
    for row, output in enumerate(outputs):
        synthetic = row >= len(mixed.lam) - mixed.num_synthetic
        part = sums["synthetic" if synthetic and averaging == "apart" else "real"]
        lam, weight = float(mixed.lam[row]), float(mixed.weight[row])
        part[2] += weight
        for share, label in ((lam, int(mixed.targets_a[row])), (1 - lam, int(mixed.targets_b[row]))):
            if label != -100:
                part[0] += weight * share * float(-WEIGHTS[label] * output.log_softmax(0)[label])
                part[1] += weight * share * float(WEIGHTS[label])
    expected = sum(whole * total / norm for total, norm, whole in sums.values() if norm)
    loss = mixed.loss(nn.CrossEntropyLoss(weight=WEIGHTS), outputs)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


LOSSES: dict[str, tuple[Criterion, tuple[int, ...], tuple[int, ...]]] = {
    "multi-label": (nn.BCEWithLogitsLoss(pos_weight=WEIGHTS), (5, CLASSES), (5, CLASSES)),
    "regression": (nn.HuberLoss(delta=0.3), (5,), (5,)),
    "vectors": (nn.MSELoss(), (5, CLASSES), (5, CLASSES)),
    "smooth": (partial(F.smooth_l1_loss, beta=0.3), (5,), (5,)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_other_pytorch_losses_work_unchanged(name: str) -> None:
    criterion, target_shape, output_shape = LOSSES[name]
    targets, outputs = tensors(0, *target_shape).sigmoid(), tensors(1, *output_shape)
    mixed = mixed_of(targets, train=False)
    torch.testing.assert_close(mixed.loss(criterion, outputs), criterion(outputs, targets))
    mixed = mixed_of(targets)
    outputs = tensors(1, 10, *output_shape[1:])
    rows = mixed.loss(criterion, outputs, reduction="none")
    torch.testing.assert_close(rows[3], criterion(outputs[3:4], targets[3:4]))


def test_weighted_nll_loss_equals_pytorch() -> None:
    labels = labels_of(0, 5)
    outputs = tensors(0, 5, CLASSES).log_softmax(1)
    for criterion in (nn.NLLLoss(weight=WEIGHTS), partial(F.nll_loss, weight=WEIGHTS)):
        loss = mixed_of(labels, train=False).loss(criterion, outputs)
        torch.testing.assert_close(loss, F.nll_loss(outputs, labels, weight=WEIGHTS))


@pytest.mark.parametrize("weight", [None, WEIGHTS])
def test_margin_loss_skips_ignored_labels_and_averages_over_rows(weight: Tensor | None) -> None:
    labels = labels_of(0, 5)
    outputs, real = tensors(0, 5, CLASSES), labels != -100
    expected = F.multi_margin_loss(outputs[real], labels[real], weight=weight)
    for criterion in (nn.MultiMarginLoss(weight=weight), partial(F.multi_margin_loss, weight=weight)):
        torch.testing.assert_close(mixed_of(labels, train=False).loss(criterion, outputs), expected)


def test_token_vectors_without_mask_count_every_token() -> None:
    outputs, targets = tensors(0, 2, 3, CLASSES), tensors(1, 2, 3, CLASSES)
    losses = row_losses(F.mse_loss, outputs, targets, None, torch.tensor([True, False]))
    torch.testing.assert_close(losses.total[0], 3 * F.mse_loss(outputs[0], targets[0]))
    assert losses.total[1] == 0
    assert losses.count.tolist() == losses.norm.tolist() == [3.0, 0.0]


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    losses = F.cross_entropy(logits, labels, reduction="none")
    return (1 - (-losses).exp()) ** gamma * losses


@given(seed=seeds)
def test_focal_loss_without_mask_argument_needs_per_element(seed: int) -> None:
    labels, mask = labels_of(seed, 4, 3, ignored=0), torch.arange(3) < torch.tensor([[3], [1], [2], [3]])
    mixed = mixed_of(labels, length=3, mask=mask, train=False)
    outputs = tensors(seed, 4, 3, CLASSES)
    expected = focal(outputs[mask], labels[mask]).mean()
    torch.testing.assert_close(mixed.loss(focal, outputs, per="element"), expected)
    with pytest.raises(ValueError, match="no argument named mask"):
        mixed.loss(focal, outputs)


def likelihood(logits: Tensor, tags: Tensor, mask: Tensor, reduction: str = "mean") -> Tensor:
    """Score whole sequences; the signature has the reduction argument of an elementwise loss."""
    rows = (F.cross_entropy(logits.transpose(1, 2), tags, reduction="none") * mask).sum(1) / mask.sum(1)
    return rows.mean() if reduction == "mean" else rows


class Likelihood(nn.Module):
    """CRF-like module that needs a valid tag at every masked token and a real first token."""

    def __init__(self) -> None:
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(CLASSES, CLASSES, dtype=torch.float64))

    def forward(self, emissions: Tensor, tags: Tensor, *, mask: Tensor) -> Tensor:
        assert mask[:, 0].all()
        assert (tags >= 0).all()
        return likelihood(emissions + self.transitions[tags], tags, mask, "none")


@given(seed=seeds)
def test_sequence_likelihood_gets_the_mask(seed: int) -> None:
    labels, mask = labels_of(seed, 4, 3, ignored=0), torch.arange(3) < torch.tensor([[3], [1], [2], [3]])
    labels = labels.masked_fill(~mask, -100)
    mixed = mixed_of(labels, length=3, mask=mask, train=False)
    outputs = tensors(seed, 4, 3, CLASSES)
    expected = likelihood(outputs, labels.clamp_min(0), mask)
    for criterion in (partial(likelihood, reduction="none"), Likelihood(), Likelihood().forward):
        torch.testing.assert_close(mixed.loss(criterion, outputs), expected)

    class OwnCriterion:
        def __call__(self, outputs: Tensor, targets: Tensor, **given: Tensor) -> Tensor:
            return likelihood(outputs, targets, given["mask"], "none")

    torch.testing.assert_close(mixed.loss(OwnCriterion(), outputs), expected)
    with pytest.raises(ValueError, match=r"one loss per row, shape \(4,\), got \(\): disable its own mean"):
        mixed.loss(likelihood, outputs)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["element", "row"])
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_padding_reaches_neither_loss_nor_gradient(kind: str, bad: float, strength: float) -> None:
    labels, mask = labels_of(0, 4, 3, ignored=0), torch.arange(3) < torch.tensor([[3], [1], [0], [3]])
    criterion = Likelihood() if kind == "row" else nn.CrossEntropyLoss()
    results = []
    for padding in (0.0, bad):
        torch.manual_seed(0)
        mixer, head = AttnMixup(DIM, heads=2, dropout=0.0).double(), nn.Linear(DIM, CLASSES).double()
        mixer.set_strength(strength)
        plan = mixer.draw(4, group=torch.tensor([0, 0, 1, 0]), generator=torch.Generator().manual_seed(0))
        embeddings = tensors(0, 4, 3, DIM).masked_fill(~mask.unsqueeze(-1), padding).requires_grad_()
        mixed = mixer(embeddings, labels, mask=mask, plan=plan)
        loss = mixed.loss(criterion, head(mixed.embeddings))
        learned = [embeddings, *head.parameters(), *(mixer.parameters() if strength else ())]
        learned += [*criterion.parameters()] if kind == "row" else []
        results.append([loss, *torch.autograd.grad(loss, learned)])
    for plain, padded in zip(*results, strict=True):
        assert padded.isfinite().all()
        torch.testing.assert_close(padded, plain)


def test_rows_of_weight_0_reach_neither_loss_nor_gradient() -> None:
    labels = labels_of(0, 4, ignored=0)
    mixed = mixed_of(labels, transformed_ratio=1.0, final="weight")
    outputs = tensors(0, 12, CLASSES)
    outputs[8:] = float("nan")
    outputs.requires_grad_()
    loss = mixed.loss(F.cross_entropy, outputs)
    loss.backward()
    assert loss.isfinite()
    assert outputs.grad.isfinite().all()
    assert (outputs.grad[8:] == 0).all()


@given(seed=seeds, strength=ratios)
def test_loss_is_zero_if_every_label_is_ignored(seed: int, strength: float) -> None:
    mixed = mixed_of(torch.full((3,), -100), seed=seed, strength=strength)
    outputs = tensors(seed, len(mixed.lam), CLASSES)
    assert float(mixed.loss(F.cross_entropy, outputs)) == 0
    assert float(mixed.loss(lambda a, b: F.cross_entropy(a, b, reduction="none"), outputs)) == 0


@pytest.mark.parametrize("shape", [(8,), (4, 6), (4, 3, 2)])
@pytest.mark.parametrize("criterion", [F.binary_cross_entropy_with_logits, nn.MSELoss()])
@pytest.mark.parametrize("mean_over", ["tokens", "rows"])
def test_value_losses_ignore_integer_labels_of_minus_100(
    criterion: Criterion, shape: tuple[int, ...], mean_over: MeanOver
) -> None:
    torch.manual_seed(0)
    labels, outputs = torch.randint(2, shape), torch.randn(shape)
    labels[1], labels[2, ...] = -100, 1
    labels.flatten()[-1] = -100
    mixed = AttnMixup(DIM).eval()(torch.randn(shape[0], DIM), labels)
    kept = labels != -100
    elements = F.binary_cross_entropy_with_logits if criterion is F.binary_cross_entropy_with_logits else F.mse_loss
    losses = elements(outputs, labels.clamp_min(0).float(), reduction="none")
    rows = [losses[row][kept[row]].mean() for row in range(shape[0]) if kept[row].any()]
    expected = losses[kept].mean() if mean_over == "tokens" else torch.stack(rows).mean()
    torch.testing.assert_close(mixed.loss(criterion, outputs, mean_over=mean_over), expected)


def test_sum_over_token_values_counts_only_real_tokens() -> None:
    mask = torch.arange(4) < torch.tensor([[4], [2], [1]])
    values, outputs = torch.randn(3, 4), torch.randn(3, 4)
    mixed = AttnMixup(DIM).eval()(torch.randn(3, 4, DIM), values, mask=mask, target_mask=mask)
    expected = F.mse_loss(outputs[mask], values[mask], reduction="sum")
    torch.testing.assert_close(mixed.loss(nn.MSELoss(reduction="sum"), outputs), expected)


class RecordingCriterion:
    """Criterion per row that records its arguments."""

    def __call__(self, outputs: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
        self.outputs, self.targets, self.mask = outputs.tolist(), targets.tolist(), mask
        return outputs.flatten(1).sum(1)


NAN = float("nan")
ROWS_WITHOUT_MASK = {
    "labels": (torch.tensor([1, -100, 2, 3]), [1, 0, 2, 0]),
    "tags": (torch.tensor([[1, -100], [-100, -100], [-100, 2], [3, 3]]), [[1, -100], [0, 0], [-100, 2], [0, 0]]),
    "values": (torch.tensor([1.0, 5.0, -100.0, 3.0]), [1.0, 5.0, -100.0, 0.0]),
    "several integers": (torch.full((4, 2, 1), -100), [[[-100]] * 2] * 3 + [[[0]] * 2]),
}


@pytest.mark.parametrize("name", ROWS_WITHOUT_MASK)
def test_criterion_per_row_gets_zeros_for_uncounted_rows(name: str) -> None:
    targets, seen_targets = ROWS_WITHOUT_MASK[name]
    live, outputs = torch.tensor([True, True, True, False]), torch.full((4, 3), 2.0)
    counted = [name in ("values", "several integers") or row != 1 for row in range(3)] + [False]
    outputs[~torch.tensor(counted)] = NAN
    seen = RecordingCriterion()
    losses = row_losses(seen, outputs, targets, None, live)
    assert seen.mask is None
    assert seen.targets == seen_targets
    assert seen.outputs == [[2.0] * 3 if real else [0.0] * 3 for real in counted]
    assert losses.total.tolist() == [6.0 * real for real in counted]
    assert losses.norm.tolist() == losses.count.tolist() == [float(real) for real in counted]
    assert losses.norm.dtype == losses.total.dtype == torch.float32


def test_criterion_per_row_gets_all_classes_of_as_many_as_tokens() -> None:
    mask = torch.tensor([[True, False, False], [True, True, True]])
    seen = RecordingCriterion()
    row_losses(seen, torch.full((2, 3), 2.0), torch.ones(2, 3, 4), mask, torch.tensor([True, True]))
    assert seen.outputs == [[2.0] * 3] * 2


@pytest.mark.parametrize("by_token", [True, False])
def test_criterion_per_row_gets_first_token_of_rows_without_tokens(by_token: bool) -> None:
    mask = torch.tensor([[False, True, True], [False, False, False], [True, True, False]])
    live, targets = torch.tensor([True, True, False]), torch.tensor([[9, 1, 2], [9, 9, 9], [9, 9, 9]])
    counted = torch.tensor([[False, True, True], [False, False, False], [False, False, False]])
    outputs = torch.full((3, 3, 2), 2.0) if by_token else torch.full((3, 2), 2.0)
    outputs[~(counted if by_token else counted.any(1))] = NAN
    seen = RecordingCriterion()
    losses = row_losses(seen, outputs, targets, mask, live)
    assert seen.mask.tolist() == [[False, True, True], [True, False, False], [True, False, False]]
    assert seen.targets == [[0, 1, 2], [0, 0, 0], [0, 0, 0]]
    assert seen.outputs == (outputs.nan_to_num(0.0)).tolist()
    assert losses.total.tolist() == [8.0 if by_token else 4.0, 0.0, 0.0]
    assert losses.norm.tolist() == losses.count.tolist() == [1.0, 0.0, 0.0]


def test_criterion_per_element_gets_zeros_for_uncounted_rows() -> None:
    seen, live = RecordingCriterion(), torch.tensor([True, True, False])
    outputs = torch.tensor([[2.0, 2.0], [NAN, NAN], [NAN, NAN]])
    losses = row_losses(seen, outputs, torch.tensor([1, -100, 3]), None, live, "element")
    assert seen.outputs == [[2.0, 2.0], [0.0, 0.0], [0.0, 0.0]]
    assert seen.targets == [1, 0, 0]
    assert losses.total.tolist() == [4.0, 0.0, 0.0]
    row_losses(seen, outputs.nan_to_num(0.0), torch.tensor([1.0, -100.0, 3.0]), None, live, "element")
    assert seen.targets == [1.0, -100.0, 0.0]


@given(seed=seeds)
def test_criterion_per_element_matches_pytorch_loss(seed: int) -> None:
    labels, mask = labels_of(seed, 4, 3), torch.arange(3) < torch.tensor([[3], [1], [2], [3]])
    mixed, outputs = mixed_of(labels, length=3, mask=mask), tensors(seed, 8, 3, CLASSES)

    def own(flat: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(flat, targets, reduction="none")

    torch.testing.assert_close(mixed.loss(own, outputs, per="element"), mixed.loss(F.cross_entropy, outputs))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reduction_of_criterion_is_detected(reduction: Reduction) -> None:
    expected = "sum" if reduction == "sum" else "mean"
    assert reduction_of(nn.CrossEntropyLoss(reduction=reduction)) == expected
    assert reduction_of(partial(F.cross_entropy, reduction=reduction)) == expected
    assert reduction_of(partial(focal, reduction=reduction)) == reduction_of(F.cross_entropy) == "mean"


@pytest.mark.parametrize("per", ["element", "row"])
def test_half_precision_losses_are_summed_in_float32(per: Per) -> None:
    outputs = torch.ones(2, 3, 4, dtype=torch.float16)
    losses = row_losses(
        lambda a, b, mask=None: a.flatten(1).mean(1), outputs, torch.zeros(2, 3).long(), None, torch.ones(2) > 0, per
    )
    assert losses.total.dtype == losses.norm.dtype == losses.count.dtype == torch.float32
    assert losses.total.tolist() == [3.0 if per == "element" else 1.0] * 2


@pytest.mark.parametrize("per", ["element", "row"])
def test_losses_stay_on_the_device_of_the_outputs(per: Per) -> None:
    outputs, mask = torch.zeros(2, 3, 4, device="meta"), torch.ones(2, 3, dtype=torch.bool, device="meta")
    losses = row_losses(
        lambda a, b, mask=None: a.flatten(1).sum(1), outputs, torch.zeros_like(mask).long(), mask, mask[:, 0], per
    )
    assert losses.total.is_meta


@pytest.mark.parametrize(
    "criterion",
    [
        torch.dist,
        F.relu,
        RecordingCriterion.__call__,
        RecordingCriterion().__call__,
        RecordingCriterion(),
        partial(RecordingCriterion()),
    ],
)
def test_mask_argument_of_criterion_is_detected(criterion: Criterion) -> None:
    assert criteria._takes_mask(criterion) == (criterion not in (torch.dist, F.relu))


ERRORS: dict[str, tuple[Callable[[MixedBatch, Tensor], object], str]] = {
    "per": (
        lambda mixed, outputs: mixed.loss(F.cross_entropy, outputs, per="token"),
        "per must be one of 'element', 'row', got 'token'.",
    ),
    "shape": (
        lambda mixed, outputs: mixed.loss(F.cross_entropy, torch.zeros(10, 4, 5)),
        "targets must have the shape of the outputs (10, 4, 5), with or without the last axis, got (10,).",
    ),
    "shape by element": (
        lambda mixed, outputs: mixed.loss(lambda a, b: a - b.T, torch.zeros(10, 1, 2), per="element"),
        "targets must have the shape of the outputs (10, 1, 2), with or without the last axis, got (10,).",
    ),
    "criterion that averages": (
        lambda mixed, outputs: mixed.loss(lambda a, b: a.sum(), outputs, per="element"),
        "The criterion returned losses of shape () for outputs (10, 4), expected one loss per element: disable its own "
        'mean (reduction="none"), or pass per="row" if it scores whole rows.',
    ),
    "batchmean reduction": (
        lambda mixed, outputs: mixed.loss(nn.KLDivLoss(reduction="batchmean"), outputs, targets=torch.zeros(5, 4)),
        'The criterion has reduction=\'batchmean\', expected "mean", "sum" or "none": use one of these, or pass a '
        'function that returns one loss per row, with per="row".',
    ),
    "not one loss per row": (
        lambda mixed, outputs: mixed.loss(lambda a, b: a, outputs),
        "The criterion must return one loss per row, shape (10,), got (10, 4): disable its own mean "
        '(reduction="none"), or pass per="element" if it returns one loss per element.',
    ),
    "no mask argument": (
        lambda mixed, outputs: row_losses(focal, outputs, outputs, outputs > 0, mixed.weight > 0),
        "The targets have a mask, but the criterion has no argument named mask: add one, or pass "
        'per="element" if it returns one loss per token.',
    ),
    "multi-label tokens with a class loss": (
        lambda mixed, outputs: mixed.loss(F.cross_entropy, torch.zeros(10, 2, 4), targets=torch.ones(5, 2, 4).long()),
        "This criterion takes integer targets as class indices, of shape (10, 2), got (10, 2, 4): pass targets.float() "
        "if they are distributions, or use F.binary_cross_entropy_with_logits if a sample has several labels.",
    ),
    "token values with one output column": (
        lambda mixed, outputs: mixed.loss(nn.MSELoss(), torch.zeros(10, 2, 1), targets=torch.ones(5, 2)),
        "Got one value per target, (10, 2), for outputs (10, 2, 1): drop the last axis of the outputs with "
        "outputs.squeeze(-1).",
    ),
    "multi-label targets with a class loss": (
        lambda mixed, outputs: mixed.loss(F.cross_entropy, outputs, targets=torch.ones(5, 4).long()),
        "This criterion takes integer targets as class indices, of shape (10,), got (10, 4): pass targets.float() if "
        "they are distributions, or use F.binary_cross_entropy_with_logits if a sample has several labels.",
    ),
    "values with one output column": (
        lambda mixed, outputs: mixed.loss(nn.MSELoss(), outputs[:, :1], targets=torch.ones(5)),
        "Got one value per target, (10,), for outputs (10, 1): drop the last axis of the outputs with "
        "outputs.squeeze(-1).",
    ),
    "mask of wrong shape": (
        lambda mixed, outputs: row_losses(F.mse_loss, outputs, outputs, torch.ones(10, 3) > 0, mixed.weight > 0),
        "The mask of the targets (10, 3) must match the outputs, got outputs (10, 4).",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, message = ERRORS[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(mixed_of(torch.arange(5) % CLASSES), torch.zeros(10, CLASSES))
