"""Statistics of both modules compared with hand-computed values and loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnmixup import AttnMixup, SemanticKLLoss
from attnmixup.diagnostics import (
    common_share,
    entropy_over_uniform,
    findings,
    same_class_over_chance,
    semantic_stats,
)
from tests.attnmixup import oracles
from tests.attnmixup.strategies import DIM, SCORES, Case, cases, seeds, tensors

ALL = torch.ones(1, 4, dtype=torch.bool)


def test_entropy_matches_hand_computed_values() -> None:
    uniform = torch.full((1, 2, 4, 4), 0.25)
    assert entropy_over_uniform(uniform, ALL) == pytest.approx(1)
    assert entropy_over_uniform(uniform[:, :, :1], ALL) == pytest.approx(1)
    assert entropy_over_uniform(torch.eye(4)[None, None], ALL) == 0
    halves = torch.tensor([[0.5, 0.5, 0, 0], [0.0, 0, 0, 1]])[[0, 1, 1, 1]][None, None]
    assert entropy_over_uniform(halves, ALL) == pytest.approx(math.log(2) / math.log(4) / 4)
    present = torch.tensor([[True, True, False, False]])  # absent samples are not counted
    assert entropy_over_uniform(halves, present) == pytest.approx(1 / 2)


def test_common_share_matches_hand_computed_values() -> None:
    two = torch.ones(1, 2, dtype=torch.bool)
    assert common_share(torch.ones(1, 4, 3), ALL) == pytest.approx(1)
    assert common_share(torch.tensor([[[1.0], [-1.0]]]), two) == 0
    assert common_share(torch.tensor([[[3.0], [1.0]]]), two) == pytest.approx(4 / 5)
    assert common_share(torch.ones(1, 1, 3), ALL) == pytest.approx(1)
    masked = torch.tensor([[[3.0], [1.0], [50.0]], [[1.0], [70.0], [-1.0]]])
    present = torch.tensor([[True, True, False], [True, False, True]])
    assert common_share(masked, present) == pytest.approx(8 / 12)
    assert common_share(torch.zeros(1, 4, 3), ALL) == 0


def test_same_class_weight_matches_hand_computed_values() -> None:
    classes = torch.tensor([0, 0, 1, 2])
    assert same_class_over_chance(torch.full((1, 1, 4, 4), 0.25), classes, ALL) == pytest.approx(1)
    on_partner = torch.eye(4)[[1, 0, 2, 3]][None, None]
    assert same_class_over_chance(on_partner, classes, ALL) == pytest.approx(3)  # chance is 1 of 3
    assert same_class_over_chance(on_partner, torch.arange(4), ALL) is None
    present = torch.tensor([[True, True, True, False]])
    assert same_class_over_chance(on_partner, classes, present) == pytest.approx(2)
    assert same_class_over_chance(on_partner, classes, ~present & ALL) is None
    assert same_class_over_chance(on_partner, torch.tensor([-100, -100, 1, 2]), ALL) is None


@pytest.mark.parametrize("score", SCORES)
@given(case=cases(kinds=("class",)), seed=seeds)
def test_stats_match_oracle(score: str, case: Case, seed: int) -> None:
    torch.manual_seed(seed)
    mixer = AttnMixup(DIM, heads=2, score=score, gate=True, dropout=0.5).double()
    torch.nn.init.normal_(mixer.attention.gate.bias)
    embeddings = case.embeddings if case.embeddings.ndim == 3 else case.embeddings[:, None]
    mask = torch.ones(embeddings.shape[:2], dtype=torch.bool) if case.mask is None else case.mask
    columns = [[b for b, real in enumerate(column) if real] for column in mask.T.tolist()]
    positions = [(place, real) for place, real in enumerate(columns) if len(real) > 1]
    if not positions:
        with pytest.raises(ValueError, match=r"^Attention statistics need at least two real samples\.$"):
            mixer.stats(case.embeddings, mask=case.mask)
        return
    stats = mixer.stats(case.embeddings, case.targets, mask=case.mask)
    assert mixer.training
    assert not mixer.attention.dropout._forward_pre_hooks

    attention = mixer.attention.eval()
    attention.register_module("norm", torch.nn.Identity())
    transformed, weights = attention(case.embeddings, mask=case.mask, need_attention=True)
    update = (transformed - case.embeddings).reshape(embeddings.shape)
    weights = weights.expand(*weights.shape[:-2], len(embeddings), -1).reshape(-1, 2, len(embeddings), len(embeddings))
    entropies, common, squares, ratios, lengths = [], 0.0, 0.0, [], []
    for place, real in positions:
        rows = update[real, place].tolist()
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        common += len(rows) * sum(x * x for x in mean)
        squares += sum(x * x for row in rows for x in row)
        lengths += [oracles.norm(row) for row in rows]
        for i in real:
            heads = weights[place, :, i].tolist()
            others = [j for j in real if j != i]
            choices = others if score == "cosine" else real
            if len(choices) > 1:
                entropies += [sum(-w * math.log(w) for w in head if w > 0) / math.log(len(choices)) for head in heads]
            same = [j for j in others if case.targets[j] == case.targets[i]]
            given_to = {j: sum(head[j] for head in heads) for j in others}
            if same:
                share = sum(given_to[j] for j in same) / max(sum(given_to.values()), 1e-12)
                ratios.append(share / (len(same) / len(others)))
    assert ("attention/entropy" in stats) == bool(entropies)
    if entropies:
        assert stats["attention/entropy"] == pytest.approx(sum(entropies) / len(entropies), abs=1e-9)
    assert stats["attention/common"] == pytest.approx(common / squares, abs=1e-6)
    if ratios:
        assert stats["attention/same_class"] == pytest.approx(sum(ratios) / len(ratios), abs=1e-6)
    assert ("attention/same_class" in stats) == bool(ratios)
    assert stats["norm/update"] == pytest.approx(sum(lengths) / len(lengths), abs=1e-6)
    lengths = [oracles.norm(row) for row in embeddings[mask].tolist()]
    assert stats["norm/originals"] == pytest.approx(sum(lengths) / len(lengths))


def test_stats_of_sequences_by_sample_use_mean_vectors() -> None:
    torch.manual_seed(0)
    mixer = AttnMixup(DIM, sequence="sample")
    embeddings, classes = torch.randn(5, 3, DIM), torch.tensor([0, 1, 0, 1, 1])
    mask = torch.tensor([[True, True, False]] * 4 + [[False] * 3])
    of_means = mixer.stats(embeddings[:, :2].mean(1), classes, mask=mask.any(1))
    stats = mixer.stats(embeddings, classes, mask=mask)
    for name in ("attention/entropy", "attention/common", "attention/same_class", "norm/update"):
        assert stats[name] == pytest.approx(of_means[name], rel=1e-5)


@pytest.mark.parametrize("size", [3, 8, 16])
def test_uniform_cosine_attention_has_entropy_1_and_is_reported(size: int) -> None:
    mixer = AttnMixup(DIM, score="cosine")
    torch.nn.init.constant_(mixer.attention.log_scale.bias, -50)  # all cosines count as 0
    stats = mixer.stats(tensors(0, size, DIM).float())
    assert stats["attention/entropy"] == pytest.approx(1)
    assert any("nearly uniform" in finding for finding in findings(stats))


def test_stats_leave_out_the_entropy_where_a_sample_has_one_sample_to_attend_to() -> None:
    assert "attention/entropy" not in AttnMixup(DIM, score="cosine").stats(tensors(0, 2, DIM).float())


def test_closed_gate_is_reported() -> None:
    mixer = AttnMixup(DIM, preset="recommended")
    stats = mixer.stats(tensors(0, 5, DIM).float())
    assert stats["norm/update"] == 0
    assert any("A gate starts at 0" in finding for finding in findings(stats))


def test_norm_of_transformed_rows() -> None:
    mixer, embeddings = AttnMixup(DIM), tensors(0, 5, DIM).float()
    mask = torch.tensor([True, True, True, True, False])
    transformed = mixer.eval().attention(embeddings, mask=mask)[0]
    expected = transformed[:4].norm(dim=1).mean().item()
    assert mixer.stats(embeddings, mask=mask)["norm/transformed"] == pytest.approx(expected)
    for targets in (None, torch.rand(5), torch.zeros(5, 2, dtype=torch.long)):
        assert "attention/same_class" not in mixer.stats(embeddings, targets)


def test_semantic_stats_of_own_and_other_images() -> None:
    divergences = torch.tensor([[1.0, 4.0, 9.0], [6.0, 3.0, 9.0], [9.0, 9.0, 9.0]])
    assert semantic_stats(divergences) == pytest.approx({"semantic/own": 13 / 3, "semantic/other": 46 / 6})
    present = torch.tensor([True, True, False])
    assert semantic_stats(divergences, present) == {"semantic/own": 2.0, "semantic/other": 5.0}
    with pytest.raises(ValueError, match=r"^Semantic statistics need at least two samples with an image\.$"):
        semantic_stats(divergences, torch.tensor([True, False, False]))
    loss = SemanticKLLoss(3, 4, standardize=True)
    text, image = torch.randn(5, 3), torch.randn(5, 4)
    own = loss(text, image).item()
    assert loss.stats(text, image)["semantic/own"] == pytest.approx(own, rel=1e-5)
    sequences, mask = torch.randn(5, 2, 3), torch.tensor([[True, False]]).repeat(5, 1)
    shown = torch.tensor([True, True, False, True, True])
    expected = semantic_stats(loss.divergences(sequences[:, 0], image), shown)
    assert loss.stats(sequences, image, mask=mask, sample_mask=shown) == pytest.approx(expected)
    # A sample counts if it has a token and an image, as in the loss.
    absent, unseen = mask & shown[:, None], image.masked_fill(~shown[:, None], math.nan)
    assert loss.stats(sequences, unseen, mask=absent) == pytest.approx(expected)


GOOD = {
    "attention/entropy": 0.98,
    "attention/common": 0.9,
    "attention/same_class": 1.1,
    "norm/originals": 1.0,
    "norm/transformed": 2.0,
    "norm/update": 0.01,
    "semantic/own": 0.95,
    "semantic/other": 1.0,
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"attention/entropy": 0.99},
            "The attention is nearly uniform (entropy 0.990 of the maximum): every sample receives the mean "
            'of the batch. Try score="cosine", which distinguishes samples.',
        ),
        (
            {"attention/common": 0.93},
            "93% of the attention update is one vector that all samples share: it acts as a bias, and LayerNorm "
            'alone would work as well. Try score="cosine".',
        ),
        (
            {"attention/same_class": 0.5},
            "Samples of the receiver's own class get 0.50 times the weight expected by chance: the update carries no "
            "information about the class.",
        ),
        (
            {"norm/update": 0.002},
            "The attention changes samples by 0.2% of their norm, so it does almost nothing. A gate starts at 0: check "
            "that attention.gate is in the optimizer, or train longer.",
        ),
        (
            {"norm/update": 9.23},
            "The update of the attention is 9.2 times as large as the samples, so H* depends little on the sample "
            "itself. Some models of transformers initialise the mixer with a standard deviation of 1: call "
            "reset_parameters of its parts, as in docs/how-to/recipes.md.",
        ),
        (
            {"norm/transformed": 5.0},
            "The norm of rows of H* is 5.00 times that of rows of H, so the head has to fit two scales: end the "
            "encoder with a LayerNorm, or lower transformed_ratio.",
        ),
        (
            {"norm/transformed": 0.4},
            "The norm of rows of H* is 0.40 times that of rows of H, so the head has to fit two scales: end the "
            "encoder with a LayerNorm, or lower transformed_ratio.",
        ),
        (
            {"semantic/own": 0.97},
            "The semantic loss does not distinguish images: the divergence of a text is 0.9700 nats from its own image "
            "and 1.0000 nats from others. Try contrast=1 with standardize=True.",
        ),
        (
            {"semantic/own": 0.0, "semantic/other": 0.0},
            "The semantic loss does not distinguish images: the divergence of a text is 0.0000 nats from its own image "
            "and 0.0000 nats from others. Try contrast=1 with standardize=True.",
        ),
    ],
)
def test_findings_report_each_problem(changed: dict[str, float], message: str) -> None:
    assert findings(GOOD | changed) == [message]


@given(st.sets(st.sampled_from(["attention/entropy", "attention/common", "attention/same_class"])))
def test_good_or_missing_stats_give_no_findings(left_out: set[str]) -> None:
    assert findings({name: value for name, value in GOOD.items() if name not in left_out}) == []
    assert findings({}) == []
    assert findings(GOOD | {"norm/transformed": 0.5, "norm/update": 3.0}) == []


@pytest.mark.parametrize("unit", [0.2, 3.0])
def test_findings_do_not_depend_on_scale_of_norms_and_divergences(unit: float) -> None:
    scaled = {name: unit * value for name, value in GOOD.items() if name.startswith(("norm", "semantic"))}
    assert findings(scaled | {"semantic/own": 0.9 * unit}) == []
    assert len(findings(scaled | {"norm/transformed": 2.5 * unit, "semantic/own": unit})) == 2
    assert len(findings(scaled | {"norm/update": 3.1 * unit})) == 1


def test_stats_check_the_mask_and_use_all_tokens_without_one() -> None:
    mixer, embeddings = AttnMixup(DIM), tensors(0, 3, 2, DIM).float()
    with pytest.raises(ValueError, match=r"^mask must have shape \(3, 2\), got \(3,\)\.$"):
        mixer.stats(embeddings, mask=torch.ones(3, dtype=torch.bool))
    everything = mixer.stats(embeddings, mask=torch.ones(3, 2, dtype=torch.bool))
    assert mixer.stats(embeddings) == pytest.approx(everything)
    assert everything["norm/originals"] == pytest.approx(embeddings.norm(dim=-1).mean().item())
