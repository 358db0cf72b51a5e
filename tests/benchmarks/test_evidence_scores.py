"""Scores, subsets and intervals of the evidence benchmark compared with slow or third-party implementations."""

import random

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score
from torch import Tensor

from benchmarks.evidence.comparisons import Difference, mean_over_families, paired_difference, sample_mean
from benchmarks.evidence.scores import class_groups, count_entities, count_labels, expected_calibration_error
from benchmarks.evidence.subsets import draw_subset
from reference_models.errors import UserError
from reference_models.tasks.metrics import ner_scores, relation_scores

NAMES = ("None", "a", "b", "c")


def draw_labels(seed: int, size: int = 50, classes: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(classes, (size,), generator=generator) for _ in range(2)]


def test_single_label_scores_match_scikit_learn() -> None:
    predicted, true = draw_labels(0)
    counts = count_labels(predicted, true, NAMES, "sentences")
    assert counts.micro() == pytest.approx(100 * (predicted == true).float().mean().item())
    assert counts.by_class().tolist() == pytest.approx((100 * f1_score(true, predicted, average=None)).tolist())


def test_relation_scores_exclude_none() -> None:
    predicted, true = draw_labels(1)
    counts = count_labels(predicted, true, NAMES, "relations")
    oracle = relation_scores([NAMES[label] for label in true], [NAMES[label] for label in predicted])
    assert counts.micro() == pytest.approx(100 * oracle["f1"])
    assert counts.by_class()[0].isnan()


def test_entity_scores_match_reference_models() -> None:
    names = ("O", "B-LOC", "B-PER", "I-LOC", "I-PER")
    draw = random.Random(0)
    lengths = [draw.randint(1, 7) for _ in range(30)]
    sides = [torch.tensor([draw.randrange(5) for _ in range(sum(lengths))]) for _ in range(2)]
    counts = count_entities(*sides, lengths, names)
    predicted, true = ([[names[tag] for tag in part] for part in torch.split(side, lengths)] for side in sides)
    oracle = ner_scores(true, predicted, ("LOC", "PER"))
    assert counts.micro() == pytest.approx(100 * oracle["f1"])
    assert counts.by_class().tolist() == pytest.approx([100 * oracle["LOC_f1"], 100 * oracle["PER_f1"]])


def test_f1_without_gold_or_predicted_relations_is_0() -> None:
    nothing = torch.zeros(3, dtype=torch.long)
    assert count_labels(nothing, nothing, NAMES, "relations").micro() == 0


def test_class_groups_by_frequency() -> None:
    by_class = torch.tensor([10.0, 20, 30, torch.nan, 50, 60, 70])
    groups = class_groups(by_class, torch.tensor([1, 9, 5, 99, 8, 2, 6]))
    assert groups == {"head": (20 + 50) / 2, "medium": (70 + 30) / 2, "tail": (60 + 10) / 2}
    assert class_groups(by_class, torch.full((7,), 3)) == {"head": None, "medium": None, "tail": None}


def test_calibration_error_matches_loop_over_bins() -> None:
    probabilities = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)).mul(3).softmax(1)
    true = draw_labels(2, 200, 3)[0]
    total = 0.0
    for start in range(15):
        rows = [row for row in range(200) if start / 15 <= probabilities[row].max() < (start + 1) / 15]
        if rows:
            right = np.mean([float(probabilities[row].argmax() == true[row]) for row in rows])
            confidence = np.mean([float(probabilities[row].max()) for row in rows])
            total += len(rows) / 200 * float(abs(right - confidence))
    assert expected_calibration_error(probabilities, true) == pytest.approx(100 * total, abs=1e-4)
    assert expected_calibration_error(torch.eye(3), torch.arange(3)) == 0


def test_subsets_have_requested_rows_and_depend_only_on_the_seed() -> None:
    rows, classes = torch.arange(100, 160), torch.arange(60) % 3
    few = draw_subset(rows, classes, {"per_class": 4}, 0)
    assert torch.bincount(classes[few - 100]).tolist() == [4, 4, 4]
    assert torch.equal(few, draw_subset(rows, classes, {"per_class": 4}, 0))
    assert not torch.equal(few, draw_subset(rows, classes, {"per_class": 4}, 1))
    assert torch.bincount(classes[draw_subset(rows, classes, {"tail": 4}, 0) - 100]).tolist() == [20, 10, 5]
    assert len(draw_subset(rows, None, {"share": 0.05}, 0).unique()) == 3
    assert len(draw_subset(rows, None, {"rows": 7}, 0).unique()) == 7
    assert torch.equal(draw_subset(rows, classes, {}, 0), rows)


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ({"per_class": 21}, "more rows than the 20"),
        ({"rows": 61}, "61 of 60"),
        ({"rows": 1, "share": 0.1}, "one of per_class"),
        ({"first": 3}, "one of per_class"),
    ],
)
def test_impossible_subsets_raise(subset: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        draw_subset(torch.arange(60), torch.arange(60) % 3, subset, 0)
    with pytest.raises(UserError, match="needs one class"):
        draw_subset(torch.arange(60), None, {"per_class": 1}, 0)


def test_paired_intervals_match_scipy() -> None:
    ours, plain = {0: 3.0, 1: 5.0, 2: 4.5, 7: 1.0}, {0: 2.0, 1: 4.5, 2: 2.0, 3: 9.0}
    difference = paired_difference(ours, plain)
    oracle = stats.ttest_rel([3.0, 5.0, 4.5], [2.0, 4.5, 2.0])
    low, high = oracle.confidence_interval(0.95)
    assert difference.mean == pytest.approx((low + high) / 2)
    assert difference.half_width() == pytest.approx((high - low) / 2)
    assert difference.excludes_zero() is bool(oracle.pvalue < 0.05)
    corrected = oracle.confidence_interval(1 - 0.05 / 4)
    assert difference.half_width(4) == pytest.approx((corrected.high - corrected.low) / 2)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    assert sample_mean([2.0]).half_width() is None


def test_each_family_counts_once() -> None:
    members = [("x", Difference(1.0, 0.3, 9)), ("x", Difference(3.0, 0.1, 4)), ("y", Difference(5.0, 0.4, 9))]
    means = mean_over_families(members)
    assert means is not None
    over_families, over_seeds = means
    assert over_families.mean == over_seeds.mean == (2.0 + 5.0) / 2
    assert over_families.error == pytest.approx(np.std([2.0, 5.0], ddof=1) / 2**0.5)
    assert over_families.freedom == 1
    of_x, of_y = (0.2 / 2) ** 2, (0.4 / 2) ** 2
    assert over_seeds.error == pytest.approx((of_x + of_y) ** 0.5)
    assert over_seeds.freedom == pytest.approx((of_x + of_y) ** 2 / (of_x**2 / 4 + of_y**2 / 9))


def test_interval_over_seeds_has_nominal_coverage_for_data_sets_that_vary_together() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        shared = generator.normal(0, 1, 5)
        drawn = [("x", sample_mean((scale * shared).tolist())) for scale in (1, 3)]
        drawn += [("y", sample_mean(generator.normal(0, 2, 5).tolist()))]
        covered += not mean_over_families(drawn)[1].excludes_zero()
    assert covered / 500 == pytest.approx(0.95, abs=0.03)
