"""Tagging and relation heads compared with brute force and plain loops."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attnmixup import AttnMixup, MixupPlan
from reference_models.tasks.heads import LinearHead, RelationHead, SoftmaxTaggingHead, TaggingHead

LABELS, WIDTH = 3, 4

ragged = st.lists(st.integers(1, 4), min_size=1, max_size=4)
seeds = st.integers(0, 1000)


def make_head(seed: int = 0) -> TaggingHead:
    torch.manual_seed(seed)
    head = TaggingHead(WIDTH, LABELS, dropout=0.0)
    for parameter in head.crf.parameters():
        parameter.data.normal_()
    return head


def make_scores(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    scores = torch.randn(*mask.shape, LABELS, generator=generator)
    tags = torch.randint(LABELS, mask.shape, generator=generator) * mask
    return scores, tags, mask


def score_path(head: TaggingHead, scores: list[list[float]], path: tuple[int, ...]) -> float:
    start, end, moves = (
        p.tolist() for p in (head.crf.start_transitions, head.crf.end_transitions, head.crf.transitions)
    )
    total: float = start[path[0]] + end[path[-1]] + sum(scores[i][tag] for i, tag in enumerate(path))
    total += sum(moves[a][b] for a, b in itertools.pairwise(path))
    return total


@given(lengths=ragged, seed=seeds)
def test_crf_loss_and_decoding_match_brute_force(lengths: list[int], seed: int) -> None:
    head = make_head(seed)
    scores, tags, mask = make_scores(lengths, seed)
    losses, best = head.loss(scores, tags, mask), head.decode(scores, mask)
    for row, length in enumerate(lengths):
        words = scores[row, :length].tolist()
        totals = {path: score_path(head, words, path) for path in itertools.product(range(LABELS), repeat=length)}
        log_sum = math.log(sum(math.exp(total) for total in totals.values()))
        expected = (log_sum - totals[tuple(tags[row, :length].tolist())]) / length
        assert losses[row].item() == pytest.approx(expected, abs=1e-4)
        found = tuple(best[row, :length].tolist())
        assert totals[found] == pytest.approx(max(totals.values()), abs=1e-4)
        assert best[row, length:].tolist() == [-100] * (len(best[row]) - length)


@given(lengths=ragged, seed=seeds)
def test_softmax_tagging_matches_plain_loops(lengths: list[int], seed: int) -> None:
    head = SoftmaxTaggingHead(WIDTH, LABELS, dropout=0.0)
    scores, tags, mask = make_scores(lengths, seed)
    scores[~mask] = 1e30
    losses, best = head.loss(scores, tags, mask), head.decode(scores, mask)
    for row, length in enumerate(lengths):
        expected = 0.0
        for place in range(length):
            exponentials = [math.exp(score) for score in scores[row, place].tolist()]
            expected -= math.log(exponentials[tags[row, place]] / sum(exponentials)) / length
            assert best[row, place].item() == exponentials.index(max(exponentials))
        assert losses[row].item() == pytest.approx(expected, abs=1e-4)
        assert best[row, length:].tolist() == [-100] * (len(best[row]) - length)


@pytest.mark.parametrize("padding", [math.nan, math.inf, -math.inf, 1e30])
def test_padding_scores_do_not_matter(padding: float) -> None:
    head = make_head()
    scores, tags, mask = make_scores([2, 4])
    corrupted = scores.masked_fill(~mask[..., None], padding).requires_grad_()
    losses = head.loss(corrupted, tags, mask)
    assert torch.equal(losses, head.loss(scores, tags, mask))
    assert torch.equal(head.decode(corrupted.detach(), mask), head.decode(scores, mask))
    losses.sum().backward()
    assert corrupted.grad.isfinite().all()
    assert (corrupted.grad[0, 2:] == 0).all()


def test_tagging_is_computed_in_float32_under_autocast() -> None:
    head = make_head()
    rows = torch.randn(2, 40, WIDTH)
    tags, mask = torch.randint(LABELS, (2, 40)), torch.ones(2, 40, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        scores = head(rows)
        assert scores.dtype == torch.float32
        losses = head.loss(scores, tags, mask)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, head.loss(scores, tags, mask), rtol=0, atol=0)


def test_every_tagging_head_parameter_gets_a_gradient() -> None:
    head = make_head()
    _, tags, mask = make_scores([2, 4])
    head.loss(head(torch.randn(2, 4, WIDTH)), tags, mask).mean().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@given(size=st.integers(1, 5), seed=seeds)
def test_relation_loss_is_the_negative_log_likelihood(size: int, seed: int) -> None:
    torch.manual_seed(seed)
    head = RelationHead(WIDTH, LABELS, dropout=0.0)
    relations = torch.randint(LABELS, (size,))
    scores = head(torch.randn(size, WIDTH))
    for row, relation, loss in zip(scores.tolist(), relations.tolist(), head.loss(scores, relations), strict=True):
        assert loss.item() == pytest.approx(math.log(sum(map(math.exp, row))) - row[relation], abs=1e-5)
    assert head.decode(scores).tolist() == [row.index(max(row)) for row in scores.tolist()]


LAM = (0.0, 1.0, 0.3, 0.75)
# Of four sentences and their transformed ones (4 to 7), pairs that AttnMixup mixes with LAM.
FIRST, SECOND = (0, 5, 2, 7), (1, 3, 4, 6)


def mixed_losses(head: LinearHead, lengths: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mix four sentences; return the mixer's losses of its pairs, their scores, and the tags of both sources."""
    _, tags, mask = make_scores(lengths)
    torch.manual_seed(1)
    mixer = AttnMixup(WIDTH, heads=2)
    plan = MixupPlan(torch.tensor([2]), torch.tensor(FIRST), torch.tensor(SECOND), torch.tensor(LAM), size=4)
    mixed = mixer(torch.randn(*mask.shape, WIDTH), tags, mask=mask, plan=plan)
    scores = head(mixed.embeddings)
    losses = mixed.loss(head.loss, scores, reduction="none")
    first, second = (tags[[row % 4 for row in rows]] for rows in (FIRST, SECOND))
    return losses[5:], scores[5:], first, second


def test_pair_loss_of_a_softmax_is_that_of_soft_labels() -> None:
    losses, scores, first, second = mixed_losses(SoftmaxTaggingHead(WIDTH, LABELS, dropout=0.0), [3] * 4)
    for row, lam in enumerate(LAM):
        soft = lam * F.one_hot(first[row], LABELS) + (1 - lam) * F.one_hot(second[row], LABELS)
        assert losses[row].item() == pytest.approx(F.cross_entropy(scores[row], soft).item(), abs=1e-6)
    torch.testing.assert_close(losses[0], F.cross_entropy(scores[0], second[0]))
    torch.testing.assert_close(losses[1], F.cross_entropy(scores[1], first[1]))


def test_pair_loss_of_a_crf_is_its_log_sum_less_the_mixed_score_of_both_paths() -> None:
    head = make_head()
    losses, scores, first, second = mixed_losses(head, [3] * 4)
    for row, lam in enumerate(LAM):
        words = scores[row].tolist()
        totals = {path: score_path(head, words, path) for path in itertools.product(range(LABELS), repeat=3)}
        log_sum = math.log(sum(math.exp(total) for total in totals.values()))
        one, other = (totals[tuple(tags[row].tolist())] for tags in (first, second))
        assert losses[row].item() == pytest.approx((log_sum - lam * one - (1 - lam) * other) / 3, abs=1e-5)
    for row, tags in ((0, second), (1, first)):
        plain = head.loss(scores[row : row + 1], tags[row : row + 1], torch.ones(1, 3, dtype=torch.bool))
        torch.testing.assert_close(losses[row : row + 1], plain)


@pytest.mark.parametrize("lengths", [[3] * 4, [4, 1, 3, 2]], ids=str)
def test_pair_losses_of_a_crf_without_transitions_are_those_of_a_softmax(lengths: list[int]) -> None:
    softmax, crf = SoftmaxTaggingHead(WIDTH, LABELS, dropout=0.0), make_head()
    crf.linear = softmax.linear
    with torch.no_grad():
        for parameter in crf.crf.parameters():
            parameter.zero_()
    torch.testing.assert_close(mixed_losses(crf, lengths)[0], mixed_losses(softmax, lengths)[0], atol=1e-5, rtol=0)


def test_dropout_acts_only_in_training() -> None:
    head = RelationHead(WIDTH, LABELS, dropout=0.5)
    rows = torch.ones(1, WIDTH)
    assert len({tuple(head(rows)[0].tolist()) for _ in range(20)}) > 1
    assert len({tuple(head.eval()(rows)[0].tolist()) for _ in range(20)}) == 1
