"""Seeds until it is decided: a test of two settings with a look after every seed.

The differences of two settings on the same seeds are tested by Student's t at each look, always at the same nominal
level (a constant boundary, as Pocock's, Group sequential methods in the design and analysis of clinical trials, 1977).
That level is so small that all looks of all pairs together are wrong with a probability of at most 5 %. The intervals
at this level are repeated confidence intervals (Jennison and Turnbull, Group sequential methods, 1999, chapter 9):
with a probability of 95 %, the intervals of all pairs contain the true differences at all looks. Every decision
follows from them, and holds for whatever rule chooses the pair that gets the next seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np

from core.compare.statistics import LEVEL, Difference, difference
from core.randomness import key

FIRST = 3  # seeds at the first look
MOST = 200  # seeds of the largest budget
PATHS, AT_ONCE = 200_000, 20_000  # simulated experiments without a difference, in all and in memory at once

Verdict = Literal["shown", "not as large", "undecided"]


@dataclass(frozen=True)
class Rule:
    """The rule of a decision, fixed before its first look.

    least: the smallest difference of interest, in the unit of the metric, or None.  budget: number of seeds at the last
    look.  boundary: nominal level of each look, see `boundary`.
    """

    least: float | None
    budget: int
    boundary: float


@dataclass(frozen=True)
class Look:
    """A pair of settings at a look. low, high: its repeated confidence interval.  verdict: None while it is open."""

    difference: Difference
    low: float
    high: float
    verdict: Verdict | None

    @property
    def n(self) -> int:
        """The number of seeds that both settings have."""
        return self.difference.n

    @property
    def mean(self) -> float:
        """The mean difference."""
        return self.difference.mean


def look(found: Difference, rule: Rule) -> Look:
    """Look at the difference of two settings."""
    low, high = found.interval(rule.boundary)
    return Look(found, low, high, _verdict(found.n, low, high, rule))


def _verdict(n: int, low: float, high: float, rule: Rule) -> Verdict | None:
    if low > 0 or high < 0:
        return "shown"
    if rule.least is not None and max(-low, high) < rule.least:
        return "not as large"
    return "undecided" if n >= rule.budget else None


def deciding_look(a: Mapping[int, float], b: Mapping[int, float], rule: Rule, resolution: float = 0.0) -> Look | None:
    """The look that decides, or the present one; None before the first. It depends on the results alone, and not on
    when they were looked at: looks are taken after each seed, in the order of the seeds.

    a, b: seed -> value of the settings.  resolution: see `difference`.
    """
    common = sorted(set(a) & set(b))
    found = None
    for n in range(FIRST, min(len(common), rule.budget) + 1):
        found = look(paired(a, b, common[:n], resolution), rule)
        if found.verdict:
            break
    return found


def paired(a: Mapping[int, float], b: Mapping[int, float], seeds: list[int], resolution: float = 0.0) -> Difference:
    """The difference a minus b on these seeds, of which there are two or more; values are finite. resolution: see
    `difference`."""
    own, other = ({seed: of[seed] for seed in seeds} for of in (a, b))
    found = difference(own, other, resolution=resolution)
    assert found is not None
    return found


def seeds_to_go(found: Look, rule: Rule) -> int | None:
    """The number of further seeds after which a pair is decided, if its mean and deviation stay as they are; None if
    it is not decided within the budget."""
    for n in range(found.n + 1, rule.budget + 1):
        error = found.difference.deviation / math.sqrt(n)
        then = look(replace(found.difference, n=n, freedom=n - 1.0, error=error), rule)
        if then.verdict in ("shown", "not as large"):
            return n - found.n
    return None


@cache
def boundary(pairs: int, budget: int) -> float:
    """The nominal level of each look, with which any of `pairs` equal pairs is ever shown to differ in at most 5 % of
    cases, with looks after each of FIRST to `budget` seeds.

    Pairs share the 5 % equally (Bonferroni). For one pair, it is the quantile of the smallest p-value of all looks in
    PATHS simulated experiments, always the same ones, rounded down to three digits.
    """
    level = LEVEL / pairs
    generator = np.random.Generator(np.random.Philox(key=int(key(0, "boundary", budget)[0]) % 2**64))
    least = np.concatenate(
        [_least_p(generator.standard_normal((AT_ONCE, budget)), level) for _ in range(PATHS // AT_ONCE)]
    )
    place = int(level * PATHS)  # so many are smaller
    found = min(level, float(np.partition(least, place)[place]))
    digits = 10.0 ** (2 - math.floor(math.log10(found)))
    return math.floor(found * digits) / digits


def _least_p(differences: np.ndarray, level: float) -> np.ndarray:
    """The smallest p-value of all looks at paths [paths, seeds] of differences; 1 where none is below the level."""
    from scipy.special import stdtr

    statistics, least = t_statistics(differences), np.ones(len(differences))
    for place in range(statistics.shape[1]):
        freedom = FIRST + place - 1
        small = np.flatnonzero(statistics[:, place] > critical(freedom, level))
        least[small] = np.minimum(least[small], 2 * stdtr(freedom, -statistics[small, place]))
    return least


def critical(freedom: int, level: float) -> float:
    """The absolute value of Student's t at which the two-sided p-value is `level`."""
    from scipy.special import stdtrit

    return float(-stdtrit(freedom, level / 2))


def t_statistics(differences: np.ndarray) -> np.ndarray:
    """Absolute values of Student's t at each look, [paths, looks], of paths [paths, seeds] of differences."""
    n = np.arange(1, differences.shape[1] + 1)[FIRST - 1 :]
    sums = differences.cumsum(axis=1)[:, FIRST - 1 :]
    squares = (differences**2).cumsum(axis=1)[:, FIRST - 1 :]
    variance = np.maximum(squares - sums**2 / n, 1e-12 * squares + 1e-300) / (n - 1)
    return np.asarray(np.abs(sums) / np.sqrt(n * variance))
