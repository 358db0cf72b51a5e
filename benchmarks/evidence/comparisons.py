"""Paired differences with 95% t-intervals: for one data set over seeds, and for several over families of data sets."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.stats import t as student

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """A mean difference in points, its standard error and the degrees of freedom of its t-interval.

    The standard error is None if it cannot be estimated.
    """

    mean: float
    error: float | None
    freedom: float

    def half_width(self, comparisons: int = 1) -> float | None:
        """Return half the width of the 95% interval, with Bonferroni's correction for several comparisons."""
        if self.error is None:
            return None
        return float(student.ppf(1 - (1 - CONFIDENCE) / comparisons / 2, self.freedom)) * self.error

    def excludes_zero(self, comparisons: int = 1) -> bool:
        """Return whether the interval excludes 0."""
        width = self.half_width(comparisons)
        return width is not None and abs(self.mean) > width


def paired_difference(scores: Mapping[int, float], plain: Mapping[int, float]) -> Difference | None:
    """Return the mean of ``scores - plain`` over the seeds that both have; None if there is no such seed."""
    return sample_mean([scores[seed] - plain[seed] for seed in sorted(scores.keys() & plain.keys())])


def sample_mean(values: Sequence[float]) -> Difference | None:
    """Return the mean of independent values with a t-interval of n - 1 degrees of freedom; None without a value."""
    if not values:
        return None
    if len(values) == 1:
        return Difference(values[0], None, 0)
    return Difference(mean(values), stdev(values) / math.sqrt(len(values)), len(values) - 1)


def mean_over_families(differences: Sequence[tuple[str, Difference]]) -> tuple[Difference, Difference] | None:
    """Return the mean difference over data sets, where data sets of one family are one cluster.

    Each family counts once, with the mean over its data sets.

    Args:
        differences: Family and difference of each data set.

    Returns:
        The same mean with two standard errors, or None without a data set. The first is over families, for the question
        whether it would help on another data set: families are the sample, with n - 1 degrees of freedom. The second
        is over seeds with fixed data sets, for the question whether other seeds would give the same mean. Data sets of
        one family share seeds and test rows, so the error of a family is at most the mean of theirs, which is taken.
        The variances of the families add up, with Satterthwaite's degrees of freedom.
    """
    by_family: dict[str, list[Difference]] = defaultdict(list)
    for family, difference in differences:
        by_family[family].append(difference)
    over_families = sample_mean([mean(d.mean for d in members) for members in by_family.values()])
    if over_families is None:
        return None
    if any(difference.error is None for _, difference in differences):
        return over_families, Difference(over_families.mean, None, 0)
    parts = [
        ((mean(d.error or 0 for d in members) / len(by_family)) ** 2, min(d.freedom for d in members))
        for members in by_family.values()
    ]
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / spread if spread else 1.0
    return over_families, Difference(over_families.mean, math.sqrt(variance), freedom)
