"""Statistical tests of whether one setting is better than another, given a few seeds of each."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL, POWER = 0.05, 0.8
MOST = 1000  # maximum number of seeds that `seeds_needed` returns


@dataclass(frozen=True)
class Difference:
    """Mean of a minus mean of b, with the interval from low to high: a 95 % interval unless its level was corrected.

    means: of a and of b, over the pairs or over all values.  p: two-sided p-value, not corrected.  n: number of pairs;
    in Welch's test, the smaller number of seeds.  deviation: standard deviation of the paired differences; in Welch's
    test, of the difference between one value of a and one of b.  overlap: of folds, the correction that was applied.
    """

    mean: float
    means: tuple[float, float]
    low: float
    high: float
    p: float
    n: int
    paired: bool
    deviation: float
    overlap: float = 0.0


def difference(
    a: Mapping[Any, float],
    b: Mapping[Any, float],
    level: float = LEVEL,
    overlaps: tuple[float, float] = (0.0, 0.0),
) -> Difference | None:
    """Test the difference between two settings. a, b: key (a seed) -> value.  level: 1 minus that of the interval.
    overlaps: of a and of b, by which the variances of their means are corrected, see `mean_and_interval`.

    If two or more keys are in both, the test is paired over them; otherwise it is Welch's test (Welch, The
    generalization of Student's problem, 1947). Returns None if either has a single value, or one that is not finite.
    """
    if not all(map(math.isfinite, (*a.values(), *b.values()))):
        return None
    common = sorted(set(a) & set(b), key=repr)
    paired = len(common) > 1
    if not paired and min(len(a), len(b)) < 2:
        return None
    x, y = (np.array([of[key] for key in (common if paired else of)]) for of in (a, b))
    if paired:
        mean, deviation = float((x - y).mean()), float((x - y).std(ddof=1))
    else:
        mean, deviation = float(x.mean() - y.mean()), math.sqrt(x.var(ddof=1) + y.var(ddof=1))
    if deviation == 0:  # t is 0/0 or infinite
        low, high, p = mean, mean, float(mean == 0)
    else:
        low, high, p = (_corrected if any(overlaps) else _t_test)(x, y, paired, level, overlaps)
    means = float(x.mean()), float(y.mean())
    return Difference(mean, means, low, high, p, min(len(x), len(y)), paired, deviation, max(overlaps))


def _corrected(
    a: np.ndarray, b: np.ndarray, paired: bool, level: float, overlaps: tuple[float, float]
) -> tuple[float, float, float]:
    """(low, high, p) of the difference of means over folds: the corrected resampled t-test of Nadeau and Bengio (2003),
    and Welch's test with variances that are corrected in the same way."""
    from scipy.stats import t

    if paired:
        variance, freedom = (a - b).var(ddof=1) * (1 / len(a) + max(overlaps)), len(a) - 1.0
    else:
        each = [x.var(ddof=1) * (1 / len(x) + overlap) for x, overlap in zip((a, b), overlaps, strict=True)]
        variance = sum(each)
        freedom = variance**2 / sum(v**2 / (len(x) - 1) for x, v in zip((a, b), each, strict=True))
    mean, error = float(a.mean() - b.mean()), math.sqrt(variance)
    half = float(t.ppf(1 - level / 2, freedom)) * error
    return mean - half, mean + half, float(2 * t.sf(abs(mean) / error, freedom))


def _t_test(a: np.ndarray, b: np.ndarray, paired: bool, level: float, _: object) -> tuple[float, float, float]:
    """(low, high, p) of the difference of means."""
    from scipy.stats import ttest_ind, ttest_rel  # imported here: it takes a second

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "precision loss" of values that differ by rounding alone
        test = ttest_rel(a, b) if paired else ttest_ind(a, b, equal_var=False)
        low, high = test.confidence_interval(1 - level)
    return float(low), float(high), float(test.pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p-values for multiple tests (Holm, A simple sequentially rejective multiple test procedure, 1979)."""
    order = np.argsort(ps, kind="stable")
    corrected = np.empty(len(ps))
    least = 0.0
    for place, i in enumerate(order):
        least = max(least, min(1.0, (len(ps) - place) * ps[i]))
        corrected[i] = least
    return corrected.tolist()


def holm_levels(ps: Sequence[float]) -> list[float]:
    """Returns for each test the level of the interval that leaves out 0 exactly if the p-value that Holm's method
    corrects is below LEVEL: never wider than Bonferroni's, and LEVEL itself for a single test."""
    steps = np.empty(len(ps))
    steps[np.argsort(ps, kind="stable")] = range(len(ps), 0, -1)
    corrected = holm(ps)
    return [LEVEL * min(1 / step, p / q if q else 1.0) for p, q, step in zip(ps, corrected, steps, strict=True)]


def power(effect: float, deviation: float, n: int, paired: bool, comparisons: int = 1, overlap: float = 0.0) -> float:
    """Returns the power: the probability that n seeds of each setting show a true difference of this size.

    deviation, overlap: as in Difference. The power follows from the noncentral t distribution (Cohen, Statistical Power
    Analysis, 2nd ed., section 2); for several comparisons, at the strictest level of Holm's procedure.
    """
    from scipy.stats import nct, t

    if n < 2:
        return 0.0
    if not deviation:
        return float(effect != 0)
    freedom = n - 1 if paired else 2 * (n - 1)
    shift = abs(effect) / deviation / math.sqrt(1 / n + overlap)
    threshold = t.ppf(1 - LEVEL / comparisons / 2, freedom)
    return float(nct.sf(threshold, freedom, shift) + nct.cdf(-threshold, freedom, shift))


def seeds_needed(
    effect: float, deviation: float, paired: bool, comparisons: int = 1, overlap: float = 0.0
) -> int | None:
    """Returns the number of seeds of each setting with which the power is 0.8; None if it is larger than MOST."""
    low, high = 2, MOST
    if not effect or power(effect, deviation, high, paired, comparisons, overlap) < POWER:
        return None
    while low < high:
        middle = (low + high) // 2
        if power(effect, deviation, middle, paired, comparisons, overlap) < POWER:
            low = middle + 1
        else:
            high = middle
    return low
