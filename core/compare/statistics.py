"""Statistical tests of whether one setting is better than another, given a few seeds of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.common.statistics import paired_difference

LEVEL, POWER = 0.05, 0.8
PASSED = 0.5  # part of the error probability of a comparison with the baseline that passes on to other comparisons
MOST = 1000  # maximum number of seeds that `seeds_needed` returns
EPSILON = 1e-12  # the smallest end of an interval that leaves out 0
MANY = 1e6  # degrees of freedom of what is as good as known


@dataclass(frozen=True)
class Difference:
    """Mean of a minus mean of b, with its standard error.

    means: of a and of b, over the pairs or over all values.  freedom: degrees of freedom of the t distribution.  n:
    number of pairs; in Welch's test, the smaller number of seeds.  deviation: standard deviation of the paired
    differences; in Welch's test, of the difference between one value of a and one of b.  overlap: of folds, the
    correction that was applied.

    images: the number of images, or of groups of them, over which the error is; 0: it is over seeds alone.  share: the
    part of the squared error that comes from images, 1 if they are all that it is over.  flips: of two single runs, how
    many images a alone gets right, and how many b alone.
    """

    mean: float
    means: tuple[float, float]
    error: float
    freedom: float
    n: int
    paired: bool
    deviation: float
    overlap: float = 0.0
    images: int = 0
    share: float = 0.0
    flips: tuple[int, int] | None = None

    @property
    def p(self) -> float:
        """Two-sided p-value of no difference; of two single runs, that of the exact McNemar test (McNemar 1947)."""
        if self.flips:
            return _mcnemar(*self.flips)
        if not self.error:  # t is 0/0 or infinite
            return float(self.mean == 0)
        return _tails(abs(self.mean) / self.error, self._parts)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """(low, high), the confidence interval of the coverage 1 - level; of two single runs, the score interval (Tango
        1998), widened up to 0 if p is not below the level, and narrowed down to 0 if it is."""
        if self.flips:
            from scipy.special import ndtri

            low, high = paired_difference(*self.flips, self.images, float(-ndtri(level / 2)))
            if self.p >= level:
                return min(low, 0.0), max(high, 0.0)
            return (max(low, EPSILON), high) if self.mean > 0 else (low, min(high, -EPSILON))
        half = _threshold(level, self._parts) * self.error if self.error else 0.0
        return self.mean - half, self.mean + half

    @property
    def _parts(self) -> _Parts:
        parts = ((1 - self.share, self.freedom), (self.share, self.images - 1.0))
        return tuple(part for part in parts if part[0])


_Parts = tuple[tuple[float, float], ...]  # (share of a variance, its degrees of freedom)


def _threshold(level: float, parts: _Parts) -> float:
    """The two-sided threshold of a mean divided by its error, the square of which is estimated in parts: the mean of
    the thresholds of the t distributions of all parts, by their shares. It is a little too large, whatever the true
    parts are (Cochran, Approximate significance levels of the Behrens-Fisher test, 1964)."""
    from scipy.special import stdtrit  # imported here: scipy takes a second

    return -sum(share * float(stdtrit(freedom, level / 2)) for share, freedom in parts)


def _tails(t: float, parts: _Parts) -> float:
    """The level at which the threshold is t."""
    from scipy.special import stdtr

    each = [max(2 * float(stdtr(freedom, -t)), 1e-300) for _, freedom in parts]
    low, high = math.log(min(each)), math.log(max(each))
    if high - low < 1e-9:
        return math.exp(high)
    from scipy.optimize import brentq

    found = brentq(lambda log: _threshold(math.exp(log), parts) - t, low - 1e-6, high + 1e-6)
    return min(1.0, math.exp(found))


def _mcnemar(a: int, b: int) -> float:
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(a, b), a + b, 0.5))) if a + b else 1.0


def difference(
    a: Mapping[Any, float],
    b: Mapping[Any, float],
    overlaps: tuple[float, float] = (0.0, 0.0),
    resolution: float = 0.0,
) -> Difference | None:
    """Test the difference between two settings. a, b: key (a seed) -> value.  overlaps: of a and of b, by which the
    variances of their means are corrected, see `mean_and_interval`.  resolution: the step between values, such as
    1 / 72 of an accuracy on 72 images. Equal values of a few seeds do not mean that there is no variation, so the
    variance of a and of b is taken to be at least that of the rounding, resolution^2 / 12 (Sheppard 1898).

    If two or more keys are in both, the test is paired over them; otherwise it is Welch's test (Welch, The
    generalization of Student's problem, 1947). Folds are tested in the same ways (Nadeau and Bengio 2003). Returns None
    if either has a single value, or one that is not finite.
    """
    if not all(map(math.isfinite, (*a.values(), *b.values()))):
        return None
    common = sorted(set(a) & set(b), key=repr)
    paired = len(common) > 1
    if not paired and min(len(a), len(b)) < 2:
        return None
    x, y = (np.array([of[key] for key in (common if paired else of)]) for of in (a, b))
    n, means = min(len(x), len(y)), (float(x.mean()), float(y.mean()))
    rounding = resolution**2 / 12
    if paired:
        mean, deviation = float((x - y).mean()), max(float((x - y).std(ddof=1)), math.sqrt(2 * rounding))
        error, freedom = deviation * math.sqrt(1 / n + max(overlaps)), n - 1.0
        return Difference(mean, means, error, freedom, n, paired, deviation, max(overlaps))
    variances = [max(float(values.var(ddof=1)), rounding) for values in (x, y)]
    each = [
        variance * (1 / len(values) + extra)
        for variance, values, extra in zip(variances, (x, y), overlaps, strict=True)
    ]
    below = sum(v**2 / (len(values) - 1) for v, values in zip(each, (x, y), strict=True))
    freedom = sum(each) ** 2 / below if below else n - 1.0
    mean, deviation = float(x.mean() - y.mean()), math.sqrt(sum(variances))
    return Difference(mean, means, math.sqrt(sum(each)), freedom, n, paired, deviation, max(overlaps))


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p-values for multiple tests (Holm, A simple sequentially rejective multiple test procedure, 1979)."""
    order = np.argsort(ps, kind="stable")
    corrected = np.empty(len(ps))
    least = 0.0
    for place, i in enumerate(order):
        least = max(least, min(1.0, (len(ps) - place) * ps[i]))
        corrected[i] = least
    return corrected.tolist()


def first_family(ps: Sequence[float]) -> tuple[list[float], list[float]]:
    """Correct the p-values of the comparisons with the baseline, and keep a part of the error probability for
    comparisons among the other settings.

    The truncated Holm procedure (Dmitrienko, Tamhane and Wiens, General multistage gatekeeping procedures, 2008,
    section 4): its first step is that of Bonferroni and of Holm, and each later one is between theirs. Returns
    (corrected p-values; for each test the level of the interval that leaves out 0 exactly if its corrected p-value is
    below LEVEL).
    """
    count, least = len(ps), 0.0
    corrected, levels = [1.0] * count, [LEVEL] * count
    for place, i in enumerate(np.argsort(ps, kind="stable")):
        share = (1 - PASSED) / (count - place) + PASSED / count
        least = max(least, min(1.0, ps[i] / share))
        corrected[i], levels[i] = least, LEVEL * min(share, ps[i] / least if least else 1.0)
    return corrected, levels


def second_family(gate: float, ps: Sequence[float], settings: int) -> list[float]:
    """Correct the p-values of the comparisons of one setting with others than the baseline.

    They receive what the comparison of this setting with the baseline passes on, once it shows a difference: the share
    PASSED of its part of the error probability. gate: the corrected p-value of that comparison.  settings: their
    number, without the baseline.
    """
    return [min(1.0, max(gate, p * settings / PASSED)) for p in holm(ps)]


def power(
    effect: float,
    deviation: float,
    n: int,
    paired: bool,
    level: float = LEVEL,
    overlap: float = 0.0,
    images: float = 0.0,
) -> float:
    """Returns the power: the probability that n seeds of each setting show a true difference of this size at this
    level.

    deviation, overlap: as in Difference.  images: the part of the squared error that comes from images, which more
    seeds do not change. The power follows from the noncentral t distribution (Cohen, Statistical Power Analysis, 2nd
    ed., section 2), with the degrees of freedom of Satterthwaite (1946).
    """
    from scipy.stats import nct

    if n < 2:
        return 0.0
    squared = deviation**2 * (1 / n + overlap) + images
    if not squared:
        return float(effect != 0)
    freedom, share = float(n - 1 if paired else 2 * (n - 1)), images / squared
    threshold = _threshold(level, ((1 - share, freedom), (share, MANY)))
    freedom = min(freedom / (1 - share) ** 2, MANY) if share < 1 else MANY
    shift = abs(effect) / math.sqrt(squared)
    return float(nct.sf(threshold, freedom, shift) + nct.cdf(-threshold, freedom, shift))


def seeds_needed(found: Difference, level: Callable[[int], float] = lambda n: LEVEL) -> int | None:
    """Returns the number of seeds of each setting, more than there are, with which a difference of the measured size
    has a power of 0.8; None if it is larger than MOST. level: of the test on n seeds, which may grow with n."""
    images = found.error**2 * found.share

    def enough(n: int) -> bool:
        found_power = power(found.mean, found.deviation, n, found.paired, level(n), found.overlap, images)
        return not found_power < POWER  # NaN, if the power is so close to 1 that scipy cannot compute it

    low, high = found.n + 1, MOST
    if not found.mean or not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
