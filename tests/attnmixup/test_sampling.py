"""Sampling: distributions, bounds and random generators of everything that is drawn."""

import re
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from attnmixup import sampling
from attnmixup.sampling import MixupPlan
from tests.attnmixup import oracles
from tests.attnmixup.strategies import PAPER, ratios, seeds, sizes, traced


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_equal_plans(first: MixupPlan, second: MixupPlan) -> None:
    for name, drawn in vars(first).items():
        assert torch.equal(torch.as_tensor(drawn), torch.as_tensor(getattr(second, name))), name


@pytest.mark.parametrize("alpha", [0.05, 0.4, 1.0, 3.0])
def test_lam_follows_the_beta_distribution(alpha: float) -> None:
    lam = sampling.draw_lam(alpha, 20_000, generator=generator())
    # Float32 rounds mass near 0 and 1 to the end points, which increases the statistic for a small alpha.
    assert stats.kstest(lam.double().numpy(), stats.beta(alpha, alpha).cdf).statistic < 0.015 + (alpha < 0.1) * 0.2
    assert abs(float(lam.mean()) - 0.5) < 0.02
    assert abs(float(lam.var()) - 1 / (4 * (2 * alpha + 1))) < 0.01


def test_lam_is_between_0_and_1_for_any_alpha() -> None:
    for alpha in (1e-6, 1e-3, 1e3):
        lam = sampling.draw_lam(alpha, 1000, generator=generator())
        assert ((lam >= 0) & (lam <= 1)).all()


@given(size=sizes, seed=seeds, data=st.data())
def test_rows_are_drawn_without_replacement(size: int, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, size))
    rows = sampling.draw_rows(size, count, generator=generator(seed)).tolist()
    assert len(rows) == len(set(rows)) == count
    assert all(0 <= row < size for row in rows)


@given(groups=st.lists(st.integers(-2, 2), min_size=1, max_size=9), seed=seeds)
def test_a_permutation_stays_within_groups(groups: list[int], seed: int) -> None:
    partner = sampling.draw_permutation(torch.tensor(groups), generator=generator(seed)).tolist()
    assert sorted(partner) == list(range(len(groups)))
    assert [groups[row] for row in partner] == groups


def test_permutations_are_uniform() -> None:
    draw = generator()
    group = torch.zeros(3, dtype=torch.long)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(3000):
        partner = tuple(sampling.draw_permutation(group, generator=draw).tolist())
        counts[partner] = counts.get(partner, 0) + 1
    assert len(counts) == 6
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@given(groups=st.lists(st.integers(-2, 2), min_size=1, max_size=9), seed=seeds)
def test_derangement_pairs_no_row_with_itself(groups: list[int], seed: int) -> None:
    rows = torch.arange(len(groups))
    partner = sampling.draw_derangement(torch.tensor(groups), rows, generator=generator(seed)).tolist()
    assert sorted(partner) == list(range(len(groups)))
    assert [groups[row] for row in partner] == groups
    assert all(row != own or groups.count(groups[own]) == 1 for own, row in enumerate(partner))


def test_derangements_are_uniform_over_other_rows() -> None:
    draw = generator()
    group = torch.zeros(4, dtype=torch.long)
    partners = torch.stack([sampling.draw_derangement(group, torch.arange(4), generator=draw) for _ in range(3000)])
    for row in range(4):
        counts = torch.bincount(partners[:, row], minlength=4).tolist()
        assert counts.pop(row) == 0
        assert stats.chisquare(counts).pvalue > 1e-3


@given(samples=st.lists(st.integers(0, 5), min_size=1, max_size=12), seed=seeds)
def test_derangement_pairs_different_samples_where_possible(samples: list[int], seed: int) -> None:
    groups = [sample % 2 for sample in samples]
    given_rows = (torch.tensor(groups), torch.tensor(samples))
    partner = sampling.draw_derangement(*given_rows, generator=generator(seed)).tolist()
    assert sorted(partner) == list(range(len(samples)))
    assert [groups[row] for row in partner] == groups
    for group in set(groups):
        rows = [row for row in range(len(samples)) if groups[row] == group]
        most = max([samples[row] for row in rows].count(samples[row]) for row in rows)
        same = sum(samples[row] == samples[partner[row]] for row in rows)
        # If a sample has more than half of the rows, 2 * most - len(rows) of its pairs are with itself.
        assert same == max(0, 2 * most - len(rows))


@pytest.mark.parametrize("partner", ["derangement", "nearest"])
@pytest.mark.parametrize("how", ["random", "balanced", "slice"])
def test_no_pair_has_the_same_sample_twice(partner: str, how: str) -> None:
    final = "slice" if how == "slice" else "sample"
    options = replace(PAPER, partner=partner, sampling=how, final=final, neighbours=1)
    draw = generator()
    for _ in range(50):
        targets, embeddings = torch.randint(3, (16,), generator=draw), torch.randn(16, 2, generator=draw)
        plan = sampling.draw_plan(options, 16, targets=targets, embeddings=embeddings, generator=draw)
        assert (plan.first % 16 != plan.second % 16).all()


@given(
    rows=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=9),
    seed=seeds,
)
def test_other_class_draws_another_class_within_the_group(rows: list[tuple[int, int]], seed: int) -> None:
    group, classes = torch.tensor(rows).T
    partner = sampling.draw_other_class(group, classes, generator=generator(seed)).tolist()
    for (own_group, own_class), chosen in zip(rows, partner, strict=True):
        assert rows[chosen][0] == own_group
        if any(g == own_group and c != own_class for g, c in rows):
            assert rows[chosen][1] != own_class


@given(rows=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=9), seed=seeds)
def test_balanced_stays_within_groups(rows: list[tuple[int, int]], seed: int) -> None:
    group, classes = torch.tensor(rows).T
    partner = sampling.draw_balanced(group, classes, generator=generator(seed)).tolist()
    assert [rows[chosen][0] for chosen in partner] == group.tolist()


def test_other_class_stays_in_a_group_with_one_class() -> None:
    group, classes = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 2, 2])
    for seed in range(20):
        partner = sampling.draw_other_class(group, classes, generator=generator(seed))
        assert partner[:2].tolist() == [1, 0]
        assert set(partner[2:].tolist()) <= {2, 3}


def test_plan_check_accepts_bounds_and_rejects_values_outside() -> None:
    plan = sampling.draw_plan(PAPER, 5, generator=generator())
    group = torch.zeros(5, dtype=torch.long)
    plan.check(group)
    one = torch.ones_like(plan.lam)
    replace(plan, lam=one).check(group)
    for changed, message in (
        ({"transformed": torch.full_like(plan.transformed, 5)}, "^The plan's transformed must be rows from 0 to 4.$"),
        ({"first": torch.full_like(plan.first, 10)}, "^The plan's first must be rows from 0 to 9.$"),
        ({"lam": 1.5 * one}, "^The plan's lam must be between 0 and 1.$"),
        ({"lam": -0.5 * one}, "^The plan's lam must be between 0 and 1.$"),
        ({"transformed": plan.transformed[None]}, "^A plan needs transformed"),
        ({"first": plan.first[:, None], "second": plan.second[:, None], "lam": one[:, None]}, "^A plan needs"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(plan, **changed).check(group)
    of_own = replace(plan, second=(plan.first + 5) % 10)
    of_own.check(torch.arange(5))
    message = "The plan pairs real samples with padding, or samples of different groups: pass mask and group to draw()."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replace(of_own, second=(of_own.first + 1) % 10).check(torch.arange(5))


def test_other_class_and_balanced_draw_uniformly() -> None:
    group, classes = torch.zeros(6, dtype=torch.long), torch.tensor([0, 0, 0, 0, 1, 2])
    draw = generator()
    other = torch.stack([sampling.draw_other_class(group, classes, generator=draw) for _ in range(3000)])
    balanced = torch.stack([sampling.draw_balanced(group, classes, generator=draw) for _ in range(3000)])
    others_of_last = torch.bincount(other[:, 5], minlength=6)[:5]
    assert stats.chisquare(others_of_last.numpy()).pvalue > 1e-3
    by_class = torch.bincount(classes[balanced[:, 0]], minlength=3)
    assert stats.chisquare(by_class.numpy()).pvalue > 1e-3


def test_class_of_accepts_indices_and_class_vectors() -> None:
    assert sampling.class_of(torch.tensor([2, 0])).tolist() == [2, 0]
    assert sampling.class_of(torch.tensor([[0.1, 0.9], [0.8, 0.2]])).tolist() == [1, 0]
    for targets, got in (
        (None, "no targets"),
        (torch.zeros(2), "torch.float32 of shape (2,)"),
        (torch.zeros(2, 3, dtype=torch.long), "torch.int64 of shape (2, 3)"),
    ):
        message = re.escape(
            "Sampling by class needs class indices (B,) or floating-point targets (B, K), "
            f'got {got}; use sampling="random" and partner="uniform".'
        )
        with pytest.raises(ValueError, match=f"^{message}$"):
            sampling.class_of(targets)


def test_nearest_draws_uniformly_from_neighbours_in_the_group() -> None:
    embeddings = torch.tensor([[0.0], [1.0], [3.0], [6.0], [10.0], [0.5], [100.0]])
    group = torch.tensor([0, 0, 0, 0, 0, 1, 2])
    draw = generator()
    samples = torch.arange(7)
    partners = torch.stack([sampling.draw_nearest(group, samples, embeddings, 2, generator=draw) for _ in range(2000)])
    for row, near in enumerate([{1, 2}, {0, 2}, {0, 1}, {2, 4}, {2, 3}]):
        counts = torch.bincount(partners[:, row], minlength=7)
        assert set(counts.nonzero().flatten().tolist()) == near
        assert stats.chisquare(counts[counts > 0].numpy()).pvalue > 1e-3
    assert (partners[:, 5:] == torch.tensor([5, 6])).all()


def test_too_many_neighbours_means_all_other_samples() -> None:
    samples = torch.arange(3)
    partners = torch.stack([sampling.draw_nearest(torch.zeros(3), samples, torch.zeros(3, 2), 9) for _ in range(200)])
    assert [sorted(set(column.tolist())) for column in partners.T] == [[1, 2], [0, 2], [0, 1]]


def test_nearest_needs_embeddings() -> None:
    with pytest.raises(ValueError, match=r'^partner="nearest" needs embeddings\.$'):
        sampling.draw_plan(replace(PAPER, partner="nearest"), 3)
    embeddings = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    options = replace(PAPER, partner="nearest", neighbours=1, final="weight")
    plan = sampling.draw_plan(options, 4, embeddings=embeddings)
    assert ((plan.first % 4 - plan.second % 4).abs() == 1).all()
    assert torch.equal(plan.first % 4 // 2, plan.second % 4 // 2)


def test_sampling_by_class_rejects_multi_label_targets() -> None:
    for partner in ("other_class", "balanced"):
        message = re.escape(
            "Sampling by class needs one class per sample: rows of targets (B, K) must sum to 1, which multi-label "
            'targets do not; use sampling="random" and partner="uniform".'
        )
        with pytest.raises(ValueError, match=f"^{message}$"):
            sampling.draw_plan(replace(PAPER, partner=partner), 2, targets=torch.tensor([[1.0, 1.0], [0.0, 1.0]]))


@traced
def test_plan_is_on_device_of_the_given_tensors() -> None:
    for given_tensors in (
        {"targets": torch.zeros(4, device="meta")},
        {"group": torch.zeros(4, dtype=int, device="meta")},
        {"embeddings": torch.zeros(4, 2, device="meta")},
    ):
        assert sampling.draw_plan(PAPER, 4, **given_tensors).first.is_meta
    assert sampling.draw_plan(PAPER, 4).first.device.type == "cpu"


def test_slices_with_too_few_pairs_raise() -> None:
    options = replace(PAPER, sampling="slice", sample_ratio=0.1)
    with pytest.raises(
        ValueError, match=r"makes 2 pairs from 10 .* needs 4: raise sample_ratio or transformed_ratio\.$"
    ):
        sampling.draw_plan(options, 10)
    plan = sampling.draw_plan(replace(options, sample_ratio=0.2), 10)
    assert len(plan.transformed) + len(plan.first) == 10
    options = replace(PAPER, sampling="slice", sample_ratio=0.1, final="mixed")
    with pytest.raises(ValueError, match=r'makes no pairs from 4 samples, so final="mixed" has no rows'):
        sampling.draw_plan(options, 4)
    assert len(sampling.draw_plan(options, 10).first) == 2


def test_dropout_keeps_the_mean() -> None:
    factors = sampling.draw_dropout(torch.empty(10_000), 0.2, generator=generator())
    assert set(factors.tolist()) == {0.0, 1.25}
    assert abs(float(factors.mean()) - 1) < 0.02


@given(size=sizes, sample_ratio=ratios, transformed_ratio=ratios, seed=seeds)
def test_plan_of_the_paper(size: int, sample_ratio: float, transformed_ratio: float, seed: int) -> None:
    options = replace(PAPER, sample_ratio=sample_ratio, transformed_ratio=transformed_ratio)
    plan = sampling.draw_plan(options, size, generator=generator(seed))
    num_transformed = oracles.rounded_share(transformed_ratio, size)
    assert len(set(plan.transformed.tolist())) == len(plan.transformed) == num_transformed
    assert len(plan.first) == len(plan.second) == len(plan.lam) == size - num_transformed
    # Each sample is in the pairing set once, original or transformed, so first and second have no repeats.
    for drawn in (plan.first, plan.second):
        sources = (drawn % size).tolist()
        assert len(set(sources)) == len(sources)
    of_source: dict[int, int] = {}
    for row in torch.cat([plan.first, plan.second]).tolist():
        assert of_source.setdefault(row % size, row) == row


@given(size=sizes, ratio=ratios, seed=seeds)
def test_the_pairing_set_has_its_share_of_originals(size: int, ratio: float, seed: int) -> None:
    options = replace(PAPER, sample_ratio=ratio, transformed_ratio=0.0)
    plan = sampling.draw_plan(options, size, generator=generator(seed))
    for drawn in (plan.first, plan.second):
        assert int((drawn < size).sum()) == oracles.rounded_share(ratio, size)
        assert sorted((drawn % size).tolist()) == list(range(size))


def test_the_pairing_set_is_drawn_at_random() -> None:
    draw = generator()
    options = replace(PAPER, transformed_ratio=0.0)
    as_original = torch.zeros(10)
    for _ in range(1000):
        first = sampling.draw_plan(options, 10, generator=draw).first
        as_original[first[first < 10]] += 1
    assert ((as_original - 700).abs() < 75).all()


@pytest.mark.parametrize("field", ["transformed", "first"])
def test_rows_of_the_final_set_are_drawn_at_random(field: str) -> None:
    draw = generator()
    counts = torch.zeros(10)
    for _ in range(1000):
        counts[getattr(sampling.draw_plan(PAPER, 10, generator=draw), field) % 10] += 1
    expected = {"transformed": 600, "first": 400}[field]
    assert ((counts - expected).abs() < 80).all()


def test_synthetic_rows_are_independent_of_transformed_rows() -> None:
    draw, overlap = generator(), 0
    for _ in range(500):
        plan = sampling.draw_plan(PAPER, 10, generator=draw)
        overlap += len(set(plan.transformed.tolist()) & set((plan.first % 10).tolist()))
    assert abs(overlap / 500 - 6 * 4 / 10) < 0.2


def test_pairs_have_no_fixed_offset() -> None:
    draw, distances = generator(), torch.zeros(10)
    for _ in range(500):
        plan = sampling.draw_plan(PAPER, 10, generator=draw)
        distances[(plan.second - plan.first) % 10] += 1
    assert (distances > 100).all()


def test_lam_does_not_depend_on_position() -> None:
    draw = generator()
    plans = torch.stack([sampling.draw_plan(PAPER, 10, generator=draw).lam for _ in range(1000)])
    assert ((plans.mean(0) - 0.5).abs() < 0.05).all()


@given(size=sizes, seed=seeds)
def test_plan_of_the_release(size: int, seed: int) -> None:
    options = replace(PAPER, sampling="slice", final="slice", lam="batch")
    plan = sampling.draw_plan(options, size, generator=generator(seed))
    taken = oracles.rounded_share(0.7, size)
    pairing_set = list(range(taken)) + [size + row for row in range(size - taken, size)]
    mixed = oracles.rounded_share(0.4, len(pairing_set))
    assert plan.transformed.tolist() == list(range(oracles.rounded_share(0.6, size)))
    assert plan.first.tolist() == pairing_set[:mixed]
    assert len(set(plan.second.tolist())) == mixed
    assert set(plan.second.tolist()) <= set(pairing_set)
    assert len(set(plan.lam.tolist())) == min(1, mixed)


@given(size=sizes, ratio=ratios, seed=seeds)
def test_truncated_counts_match_slices_of_the_release(size: int, ratio: float, seed: int) -> None:
    options = replace(PAPER, sampling="slice", final="slice", counts="truncate", sample_ratio=ratio)
    plan = sampling.draw_plan(options, size, generator=generator(seed))
    delta = Fraction(ratio).limit_denominator(10_000)
    pool = list(range(size))[: int(delta * size)] + list(range(size, 2 * size))[int((1 - delta) * size) :]
    assert plan.first.tolist() == pool[: int(Fraction(2, 5) * len(pool))]
    assert plan.transformed.tolist() == list(range(int(Fraction(3, 5) * size)))
    assert options.never_transforms(size) == (len(plan.transformed) == 0 and max(pool, default=0) < size)


def test_counts_of_the_release_for_16_samples() -> None:
    counts = {}
    for name in ("truncate", "round"):
        options = replace(PAPER, sampling="slice", final="slice", counts=name)
        plan = sampling.draw_plan(options, 16, generator=generator())
        pool = options.num_original(16) + options.num_transformed_in_slice(16)
        counts[name] = pool, len(plan.transformed), len(plan.first)
    assert counts == {"truncate": (23, 9, 9), "round": (22, 10, 9)}


@given(size=sizes, ratio=ratios, seed=seeds)
def test_balanced_sampling_keeps_share_of_originals_and_groups(size: int, ratio: float, seed: int) -> None:
    options = replace(PAPER, sampling="balanced", sample_ratio=ratio, transformed_ratio=0.0)
    targets, group = torch.arange(size) % 2, torch.arange(size) % 3
    plan = sampling.draw_plan(options, size, targets=targets, group=group, generator=generator(seed))
    assert int((plan.first < size).sum()) == oracles.rounded_share(ratio, size)
    assert torch.equal(group[plan.first % size], group[plan.second % size])
    assert sorted(group[plan.first % size].tolist()) == sorted(group.tolist())


def test_balanced_sampling_balances_both_samples_of_a_pair() -> None:
    targets = torch.tensor([0] * 18 + [1, 2])
    options, draw = replace(PAPER, sampling="balanced", transformed_ratio=0.0), generator()
    plans = [sampling.draw_plan(options, 20, targets=targets, generator=draw) for _ in range(100)]
    for name in ("first", "second"):
        rows = torch.cat([getattr(plan, name) for plan in plans]) % 20
        assert stats.chisquare(torch.bincount(targets[rows]).numpy()).pvalue > 1e-3
        assert stats.chisquare(torch.bincount(rows[rows < 18], minlength=18).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("partner", ["balanced", "other_class"])
def test_samples_with_ignored_label_are_not_drawn_for_pairs(partner: str) -> None:
    targets = torch.tensor([0] * 6 + [1] * 6 + [-100] * 4)
    options = replace(PAPER, sampling="balanced", partner=partner, transformed_ratio=0.0)
    draw = generator()
    for _ in range(50):
        plan = sampling.draw_plan(options, 16, targets=targets, generator=draw)
        assert (targets[plan.first % 16] >= 0).all()
        assert (targets[plan.second % 16] >= 0).all()
    nothing = sampling.draw_plan(options, 4, targets=torch.full((4,), -100), generator=draw)
    assert len(nothing.first) == 4


def test_without_another_class_partner_is_any_row_of_the_group() -> None:
    group, classes = torch.zeros(2, dtype=torch.long), torch.tensor([0, -100])
    draw = generator()
    partners = torch.stack([sampling.draw_other_class(group, classes, generator=draw) for _ in range(50)])
    assert set(partners[:, 0].tolist()) == {0, 1}
    assert set(partners[:, 1].tolist()) == {0}
    group, classes = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, -100, -100])
    partners = torch.stack([sampling.draw_balanced(group, classes, generator=draw) for _ in range(50)])
    assert [set(column.tolist()) for column in partners.T] == [{0, 1}, {0, 1}, {2, 3}, {2, 3}]


@pytest.mark.parametrize("name", ["targets", "embeddings", "group"])
def test_draw_plan_rejects_tensors_of_wrong_length(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must have one row for each of 5 samples, got \(4,\)\.$"):
        sampling.draw_plan(PAPER, 5, **{name: torch.zeros(4)})


@pytest.mark.parametrize(
    "targets",
    [
        torch.zeros(9, 3, dtype=torch.long),
        torch.zeros(9),
        torch.zeros(9, 1),
        torch.zeros(9, 3, 2).long(),
        torch.zeros(9, 3, 2),
    ],
)
def test_balanced_sampling_without_classes_is_random(targets: Tensor) -> None:
    options = replace(PAPER, sampling="balanced", transformed_ratio=0.0)
    plan = sampling.draw_plan(options, 9, targets=targets, generator=generator())
    assert sorted((plan.first % 9).tolist()) == list(range(9))
    with pytest.raises(ValueError, match=r"^Sampling by class needs .*, got no targets"):
        sampling.draw_plan(options, 9)


@given(size=sizes, seed=seeds)
def test_mixed_plan_has_only_pairs(size: int, seed: int) -> None:
    plan = sampling.draw_plan(replace(PAPER, final="mixed"), size, generator=generator(seed))
    assert plan.transformed.tolist() == []
    assert sorted((plan.first % size).tolist()) == sorted((plan.second % size).tolist()) == list(range(size))


@given(size=sizes, seed=seeds)
def test_weight_plan_has_all_rows(size: int, seed: int) -> None:
    plan = sampling.draw_plan(replace(PAPER, final="weight"), size, generator=generator(seed))
    assert plan.transformed.tolist() == list(range(size))
    assert sorted((plan.first % size).tolist()) == sorted((plan.second % size).tolist()) == list(range(size))


def test_lam_is_drawn_per_sample_or_per_batch() -> None:
    by_sample = sampling.draw_plan(PAPER, 20, generator=generator()).lam
    by_batch = sampling.draw_plan(replace(PAPER, lam="batch"), 20, generator=generator()).lam
    assert len(set(by_sample.tolist())) == len(by_sample) == 8
    assert len(set(by_batch.tolist())) == 1
    extreme = sampling.draw_plan(replace(PAPER, alpha=0.01), 100, generator=generator()).lam
    assert (torch.minimum(extreme, 1 - extreme) < 0.01).float().mean() > 0.8


@pytest.mark.parametrize("partner", ["uniform", "derangement", "other_class", "balanced"])
def test_pairs_stay_within_groups(partner: str) -> None:
    group = torch.arange(12) % 3
    targets = torch.arange(12) % 4
    options = replace(PAPER, partner=partner, final="weight")
    plan = sampling.draw_plan(options, 12, targets=targets, group=group, generator=generator())
    assert torch.equal(group[plan.first % 12], group[plan.second % 12])
    if partner == "other_class":
        assert (targets[plan.first % 12] != targets[plan.second % 12]).all()


def test_balanced_partners_are_uniform_over_classes() -> None:
    targets = torch.tensor([0] * 18 + [1, 2])
    draw = generator()
    share = {}
    for partner in ("uniform", "balanced"):
        options = replace(PAPER, partner=partner, final="weight")
        plans = [sampling.draw_plan(options, 20, targets=targets, generator=draw) for _ in range(100)]
        seconds = targets[torch.cat([plan.second for plan in plans]) % 20]
        share[partner] = float((seconds == 0).float().mean())
    assert share["uniform"] == pytest.approx(0.9)
    assert share["balanced"] == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize("sampled", ["random", "balanced"])
@pytest.mark.parametrize("partner", ["uniform", "derangement", "other_class", "balanced", "nearest"])
def test_generator_determines_the_plan(partner: str, sampled: str) -> None:
    options = replace(PAPER, partner=partner, sampling=sampled)
    given_tensors = {"targets": torch.arange(9) % 3, "embeddings": torch.arange(9.0)[:, None] ** 2}
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (
        sampling.draw_plan(options, 9, **given_tensors, generator=generator(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert_equal_plans(first, again)
    assert not torch.equal(first.lam, other.lam)
    assert not torch.equal(sampling.draw_plan(options, 9, **given_tensors).lam, first.lam)
    assert not torch.equal(torch.get_rng_state(), before)
