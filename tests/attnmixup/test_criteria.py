"""Every kind of criterion: PyTorch's own as they are, one's own by row or element, and what has no part in them."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import DIM, ratios, seeds, tensors
from torch import nn

from attnmixup import AttnMixup
from attnmixup.criteria import row_losses

CLASSES = 4
WEIGHTS = torch.tensor([1.0, 0.2, 3.0, 0.5], dtype=torch.float64)
OF_CLASSES = {
    "plain": {},
    "class weights": {"weight": WEIGHTS},
    "smoothing": {"label_smoothing": 0.2},
    "weights and smoothing": {"weight": WEIGHTS, "label_smoothing": 0.2},
    "another ignored label": {"ignore_index": 1},
    "sum": {"reduction": "sum", "weight": WEIGHTS},
}


def mixed_of(targets, *, length=None, seed=0, strength=1.0, train=True, mask=None, **options):
    """A mixed batch with embeddings of its own."""
    torch.manual_seed(0)
    mixer = AttnMixup(DIM, heads=2, **options).double().train(train)
    mixer.set_strength(strength)
    shape = (len(targets), DIM) if length is None else (len(targets), length, DIM)
    return mixer(tensors(seed, *shape), targets, mask=mask, generator=torch.Generator().manual_seed(seed))


def labels_of(seed, *shape, ignored=0.3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < ignored] = -100
    labels.flatten()[0] = 2
    return labels


@pytest.mark.parametrize("name", OF_CLASSES)
@pytest.mark.parametrize("by_token", [False, True])
@given(seed=seeds, size=st.integers(1, 6))
def test_without_mixing_the_loss_is_that_of_pytorch(name, by_token, seed, size):
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
def test_mixed_rows_add_to_both_sides_of_the_mean(averaging, seed, strength):
    """Class weights and ignored labels against a loop over rows."""
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


LOSSES = {
    "multi-label": (nn.BCEWithLogitsLoss(pos_weight=WEIGHTS), (5, CLASSES), (5, CLASSES)),
    "regression": (nn.HuberLoss(delta=0.3), (5,), (5,)),
    "vectors": (nn.MSELoss(), (5, CLASSES), (5, CLASSES)),
    "smooth": (partial(F.smooth_l1_loss, beta=0.3), (5,), (5,)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_other_losses_of_pytorch_are_taken_as_they_are(name):
    criterion, target_shape, output_shape = LOSSES[name]
    targets, outputs = tensors(0, *target_shape).sigmoid(), tensors(1, *output_shape)
    mixed = mixed_of(targets, train=False)
    torch.testing.assert_close(mixed.loss(criterion, outputs), criterion(outputs, targets))
    mixed = mixed_of(targets)
    outputs = tensors(1, 10, *output_shape[1:])
    rows = mixed.loss(criterion, outputs, reduction="none")
    torch.testing.assert_close(rows[3], criterion(outputs[3:4], targets[3:4]))


def test_a_mean_over_everything_of_nll():
    labels = labels_of(0, 5)
    outputs = tensors(0, 5, CLASSES).log_softmax(1)
    for criterion in (nn.NLLLoss(weight=WEIGHTS), partial(F.nll_loss, weight=WEIGHTS)):
        loss = mixed_of(labels, train=False).loss(criterion, outputs)
        torch.testing.assert_close(loss, F.nll_loss(outputs, labels, weight=WEIGHTS))


def focal(logits, labels, gamma=2.0):
    losses = F.cross_entropy(logits, labels, reduction="none")
    return (1 - (-losses).exp()) ** gamma * losses


@given(seed=seeds)
def test_a_focal_loss_is_not_given_the_mask(seed):
    labels, mask = labels_of(seed, 4, 3, ignored=0), torch.arange(3) < torch.tensor([[3], [1], [2], [3]])
    mixed = mixed_of(labels, length=3, mask=mask, train=False)
    outputs = tensors(seed, 4, 3, CLASSES)
    expected = focal(outputs[mask], labels[mask]).mean()
    torch.testing.assert_close(mixed.loss(focal, outputs, per="element"), expected)
    with pytest.raises(ValueError, match='no argument of the name mask: give it one, or pass per="element"'):
        mixed.loss(focal, outputs)


def likelihood(logits, tags, mask, reduction="mean"):
    """A likelihood of whole sequences, with an argument that looks like that of an elementwise loss."""
    rows = (F.cross_entropy(logits.transpose(1, 2), tags, reduction="none") * mask).sum(1) / mask.sum(1)
    return rows.mean() if reduction == "mean" else rows


class Likelihood(nn.Module):
    """A CRF-like module, whose masked tokens must be a tag, and whose first token must count."""

    def __init__(self):
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(CLASSES, CLASSES, dtype=torch.float64))

    def forward(self, emissions, tags, *, mask):
        assert mask[:, 0].all()
        assert (tags >= 0).all()
        return likelihood(emissions + self.transitions[tags], tags, mask, "none")


@given(seed=seeds)
def test_a_likelihood_of_sequences_keeps_its_mask(seed):
    labels, mask = labels_of(seed, 4, 3, ignored=0), torch.arange(3) < torch.tensor([[3], [1], [2], [3]])
    labels = labels.masked_fill(~mask, -100)
    mixed = mixed_of(labels, length=3, mask=mask, train=False)
    outputs = tensors(seed, 4, 3, CLASSES)
    expected = likelihood(outputs, labels.clamp_min(0), mask)
    for criterion in (partial(likelihood, reduction="none"), Likelihood(), Likelihood().forward):
        torch.testing.assert_close(mixed.loss(criterion, outputs), expected)

    class Callable:
        def __call__(self, outputs, targets, **given):
            return likelihood(outputs, targets, given["mask"], "none")

    torch.testing.assert_close(mixed.loss(Callable(), outputs), expected)
    with pytest.raises(ValueError, match=r"one loss per row, shape \(4,\), got \(\): leave out its own mean"):
        mixed.loss(likelihood, outputs)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["element", "row"])
def test_padding_reaches_neither_loss_nor_gradient(kind, bad):
    labels, mask = labels_of(0, 4, 3, ignored=0), torch.arange(3) < torch.tensor([[3], [1], [0], [3]])
    criterion = Likelihood() if kind == "row" else nn.CrossEntropyLoss()
    results = []
    for padding in (0.0, bad):
        torch.manual_seed(0)
        mixer, head = AttnMixup(DIM, heads=2, dropout=0.0).double(), nn.Linear(DIM, CLASSES).double()
        plan = mixer.draw(4, group=torch.tensor([0, 0, 1, 0]), generator=torch.Generator().manual_seed(0))
        embeddings = tensors(0, 4, 3, DIM).masked_fill(~mask.unsqueeze(-1), padding).requires_grad_()
        mixed = mixer(embeddings, labels, mask=mask, plan=plan)
        loss = mixed.loss(criterion, head(mixed.embeddings))
        learned = [embeddings, *mixer.parameters(), *head.parameters()]
        learned += [*criterion.parameters()] if kind == "row" else []
        results.append([loss, *torch.autograd.grad(loss, learned)])
    for plain, padded in zip(*results, strict=True):
        assert padded.isfinite().all()
        torch.testing.assert_close(padded, plain)


def test_rows_of_weight_0_reach_neither_loss_nor_gradient():
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
def test_nothing_counts_where_every_label_is_ignored(seed, strength):
    mixed = mixed_of(torch.full((3,), -100), seed=seed, strength=strength)
    outputs = tensors(seed, len(mixed.lam), CLASSES)
    assert float(mixed.loss(F.cross_entropy, outputs)) == 0
    assert float(mixed.loss(lambda a, b: F.cross_entropy(a, b, reduction="none"), outputs)) == 0


def test_errors():
    mixed = mixed_of(torch.arange(5) % CLASSES)
    outputs = torch.zeros(10, CLASSES)
    for call, message in (
        (lambda: mixed.loss(F.cross_entropy, outputs, per="token"), "per must be one of 'element', 'row', got 'token'"),
        (
            lambda: mixed.loss(F.cross_entropy, torch.zeros(10, 4, 5)),
            r"shape of the outputs \(10, 4, 5\).* got \(10,\)",
        ),
        (lambda: mixed.loss(lambda a, b: a - b.T, torch.zeros(10, 1, 2), per="element"), "targets must have the shape"),
        (lambda: mixed.loss(lambda a, b: a.sum(), outputs, per="element"), "expected one for each element"),
        (lambda: mixed.loss(nn.KLDivLoss(reduction="batchmean"), outputs, targets=torch.zeros(5, 4)), "'batchmean'"),
        (lambda: mixed.loss(lambda a, b: a, outputs), r"one loss per row, shape \(10,\), got \(10, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match=r"mask of the targets \(10, 3\) must fit the outputs, got outputs \(10, 2\)"):
        row_losses(F.mse_loss, torch.zeros(10, 2), torch.zeros(10, 2), torch.ones(10, 3) > 0, mixed.weight > 0)
