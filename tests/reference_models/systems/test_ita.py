"""ITA: the losses of both views compared with all enumerated paths, gradients, and the effect of image texts."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from reference_models.errors import UserError
from reference_models.systems.ita import ITA, ITAConfig, WordDropout, view_divergence
from reference_models.tasks.heads import TaggingHead
from reference_models.tasks.lattice import forward_backward
from tests.reference_models.slow_layers import softmax
from tests.reference_models.tiny_models import VOCABULARY, make_batch, make_model

TAGS = ["O", "B-PER", "I-PER"]


def make(**options: Any) -> ITA:
    """Return a system with three tags, random transitions and no dropout."""
    system = make_model(ITA, task="ner", labels=TAGS, head_dropout=0.0, **options)
    for parameter in system.head.crf.parameters():
        parameter.data.normal_()
    for module in system.text_encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    system.train()
    return system


def batch_of_three_tags() -> dict[str, Tensor]:
    batch = make_batch("ner")
    return batch | {"labels": batch["labels"] % len(TAGS)}


def path_weights(system: ITA, scores: list[list[float]]) -> dict[tuple[int, ...], float]:
    """Return exp(score) for each path of tags."""
    crf = system.head.crf
    start, end, moves = (p.tolist() for p in (crf.start_transitions, crf.end_transitions, crf.transitions))
    return {
        path: math.exp(
            start[path[0]]
            + sum(row[tag] for row, tag in zip(scores, path, strict=True))
            + sum(moves[a][b] for a, b in itertools.pairwise(path))
            + end[path[-1]]
        )
        for path in itertools.product(range(len(TAGS)), repeat=len(scores))
    }


def slow_marginals(weights: dict[tuple[int, ...], float], words: int) -> list[list[float]]:
    total = sum(weights.values())
    return [
        [sum(weight for path, weight in weights.items() if path[word] == tag) / total for tag in range(len(TAGS))]
        for word in range(words)
    ]


def divergence(first: list[float], second: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(first, second, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_losses_agree_with_the_enumeration_of_all_paths(temperature: float) -> None:
    system, batch = make(temperature=temperature, text_weight=0.7, alignment_weight=0.3), batch_of_three_tags()
    text_losses, alignment_losses = [], []
    with torch.no_grad():
        words = [
            system.head(system.text_encoder(batch[ids], batch[seen])).tolist()
            for ids, seen in (("joined_ids", "joined_mask"), ("input_ids", "attention_mask"))
        ]
    for sample, length in enumerate(batch["word_mask"].sum(dim=1).tolist()):
        places = batch["word_starts"][sample, :length].tolist()
        both, alone = (path_weights(system, [view[sample][place] for place in places]) for view in words)
        true = tuple(batch["labels"][sample, :length].tolist())
        text_losses.append(-math.log(alone[true] / sum(alone.values())) / length)
        flat = [
            [softmax([math.log(p) / temperature for p in row]) for row in slow_marginals(weights, length)]
            for weights in (both, alone)
        ]
        apart = sum(divergence(p, q) for p, q in zip(*flat, strict=True))
        alignment_losses.append(temperature**2 * apart / length)
    losses = system.encode(batch).losses
    assert losses["text_loss"].item() == pytest.approx(0.7 * sum(text_losses) / 4, rel=1e-4)
    assert losses["alignment_loss"].item() == pytest.approx(0.3 * sum(alignment_losses) / 4, rel=1e-3)


@pytest.mark.parametrize("lengths", [(1, 3, 6), (6, 6, 6), (1, 1, 2)])
def test_marginals_are_gradients_of_the_normaliser_and_sum_to_one(lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    head = TaggingHead(4, 5, 0.0).double()
    for parameter in head.crf.parameters():
        parameter.data.normal_()
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    scores = torch.randn(*mask.shape, 5, dtype=torch.float64).masked_fill(~mask[..., None], 1e4).requires_grad_()
    found = head.log_marginals(scores, mask)
    crf = head.crf
    before, _ = forward_backward(
        scores.masked_fill(~mask[..., None], 0.0), mask, crf.start_transitions, crf.end_transitions, crf.transitions
    )
    total = torch.logsumexp(before[:, -1] + crf.end_transitions, dim=1)
    [slopes] = torch.autograd.grad(total.sum(), scores, retain_graph=True)
    torch.testing.assert_close(found.exp()[mask], slopes[mask])
    torch.testing.assert_close(torch.logsumexp(found, dim=-1)[mask], torch.zeros(int(mask.sum()), dtype=torch.float64))
    weights = torch.randn_like(found).masked_fill(~mask[..., None], 0.0)
    [back] = torch.autograd.grad((found * weights).sum(), scores)
    assert back.isfinite().all()
    assert not back[~mask].any()


def test_divergence_trains_only_the_view_without_texts() -> None:
    torch.manual_seed(1)
    head = TaggingHead(4, 5, 0.0)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    both, alone = (torch.randn(2, 4, 5, requires_grad=True) for _ in range(2))
    view_divergence(head.log_marginals(both, mask), head.log_marginals(alone, mask), mask, 2.0).sum().backward()
    assert both.grad is None
    assert alone.grad is not None
    assert (alone.grad.abs().sum(dim=-1) > 0).equal(mask)
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.crf.parameters())
    # Transitions get gradients only through the view without texts.
    through_both = TaggingHead(4, 5, 0.0)
    through_both.load_state_dict(head.state_dict())
    with torch.no_grad():
        teacher = head.log_marginals(both, mask)
    view_divergence(teacher, through_both.log_marginals(alone, mask), mask, 2.0).sum().backward()
    torch.testing.assert_close(through_both.crf.transitions.grad, head.crf.transitions.grad)


def test_equal_views_have_zero_divergence_and_gradient() -> None:
    scores = torch.randn(3, 4, 5).log_softmax(dim=-1).requires_grad_()
    mask = torch.ones(3, 4, dtype=torch.bool)
    distance = view_divergence(scores.clone(), scores, mask, 4.0)
    distance.sum().backward()
    torch.testing.assert_close(distance, torch.zeros(3))
    torch.testing.assert_close(scores.grad, torch.zeros_like(scores), atol=1e-6, rtol=0)
    assert (view_divergence(torch.randn(3, 4, 5).log_softmax(dim=-1), scores, mask, 1.0) > 0).all()


def test_temperature_flattens_marginals_not_potentials() -> None:
    system, batch = make(temperature=3.0, text_weight=0.0, alignment_weight=1.0), batch_of_three_tags()
    crf, mask = system.head.crf, batch["word_mask"]
    views = [
        system.head(system._words(batch, ids, seen)[0]).masked_fill(~mask[..., None], 0.0)
        for ids, seen in (("joined_ids", "joined_mask"), ("input_ids", "attention_mask"))
    ]
    flat = []
    for scores in views:
        parts = (crf.start_transitions / 3, crf.end_transitions / 3, crf.transitions / 3)
        before, behind = forward_backward(scores / 3, mask, *parts)
        flat.append((before + behind).log_softmax(dim=-1))
    potentials = 9 * view_divergence(*flat, mask, 1.0).mean()
    found = system.encode(batch).losses["alignment_loss"]
    assert (found - potentials).abs() > 1e-3 * found.abs()
    colder = make(temperature=1.0, text_weight=0.0, alignment_weight=1.0)
    colder.load_state_dict(system.state_dict())
    assert not torch.allclose(colder.encode(batch).losses["alignment_loss"], found)


def test_word_divergence_is_at_most_the_sentence_divergence() -> None:
    system, batch = make(), batch_of_three_tags()
    for sample, length in enumerate(batch["word_mask"].sum(dim=1).tolist()):
        weights, marginals = [], []
        for ids, seen in (("joined_ids", "joined_mask"), ("input_ids", "attention_mask")):
            with torch.no_grad():
                scores = system.head(system._words(batch, ids, seen)[0])
            weights.append(path_weights(system, scores[sample, :length].tolist()))
            marginals.append(slow_marginals(weights[-1], length))
        totals = [sum(each.values()) for each in weights]
        paths = ([w / total for w in each.values()] for each, total in zip(weights, totals, strict=True))
        whole = divergence(*paths)
        assert max(divergence(p, q) for p, q in zip(*marginals, strict=True)) <= whole + 1e-9


def test_image_texts_change_only_the_joined_view() -> None:
    system, batch = make().eval(), batch_of_three_tags()
    behind = torch.nn.functional.pad(batch["attention_mask"], (0, 4)) < batch["joined_mask"]
    other = batch | {
        "joined_ids": torch.where(behind, (batch["joined_ids"] - 5 + 7) % (VOCABULARY - 5) + 5, batch["joined_ids"])
    }
    with torch.no_grad():
        one, two = system(**batch).scores, system(**other).scores
        alone = make(predict="text").eval()
        alone.load_state_dict(system.state_dict())
        assert torch.equal(alone(**batch).scores, alone(**other).scores)
    moved = (one - two).abs().amax(dim=(1, 2)) > 1e-6
    assert moved.tolist() == [True, False, True, True]
    torch.testing.assert_close(one[1, :2], alone(**batch).scores[1, :2], atol=1e-5, rtol=1e-5)


def test_word_dropout_drops_whole_words_without_scaling() -> None:
    torch.manual_seed(0)
    rows = torch.rand(50, 40, 3) + 1
    dropped = WordDropout(0.25)(rows)
    gone = (dropped == 0).all(dim=-1)
    assert torch.equal(dropped[~gone], rows[~gone])
    assert gone.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert 0 < gone.sum(dim=0).max() < 50
    assert torch.equal(WordDropout(0.25).eval()(rows), rows)


def test_shared_dropout_drops_the_same_words_of_all_sentences() -> None:
    torch.manual_seed(0)
    gone = (WordDropout(0.25, shared=True)(torch.rand(50, 40, 3) + 1) == 0).all(dim=-1)
    assert set(gone.sum(dim=0).tolist()) == {0, 50}
    assert make_model(ITA, task="ner", shared_word_dropout=True).head.dropout.shared


def test_zero_weight_omits_a_loss() -> None:
    batch = batch_of_three_tags()
    assert set(make(text_weight=0.0).encode(batch).losses) == {"alignment_loss"}
    assert set(make(alignment_weight=0.0).encode(batch).losses) == {"text_loss"}


def test_invalid_settings_raise() -> None:
    with pytest.raises(UserError, match=r"model\.texts: expected at least one kind"):
        ITAConfig(texts=[])
    with pytest.raises(UserError, match=r"model\.temperature must be 0\.001 or more"):
        ITAConfig(temperature=0)
