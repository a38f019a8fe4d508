"""How often a decision (`labbook decide`) is wrong with looks after every seed, and how many seeds it takes.

    python -m tests.benchmarks.decide [REPLAYS]

Each replay draws K settings on common seeds: 2 points of deviation that a seed has in common, and 1 point of each run.
Differences are given in deviations of a paired difference. A fixed design has one t-test, at the number of seeds that
gives it the power of the decision at this difference, or at one of 1 deviation for which it may have been planned.
AdaStop (Mathieu, Della Vecchia, Shilova, Centa de Medeiros, Kohler, Maillard and Preux, AdaStop: adaptive statistical
testing for sound comparisons of Deep RL agents, 2024) is a group-sequential permutation test, here for two settings, in
groups of 5 seeds and with 1,000 permutations; it does not pair seeds, so it is also shown on streams without a common
part. To reach: wrong in at most 5 %; at most 0.65x of the seeds of the fixed design at a difference of 1 deviation, and
0.45x at 1.5.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from core.compare.sequential import FIRST, Rule, boundary, critical, t_statistics
from core.compare.statistics import LEVEL, power
from tests.support import edits

REPLAYS = 2000
COMMON, OWN = 0.02, 0.01
BUDGET, GROUP, PERMUTATIONS = 40, 5, 1000
AT_ONCE = 200  # replays whose permutations are in memory at once


def main() -> None:
    """Print the tables."""
    replays = int(sys.argv[1]) if len(sys.argv) > 1 else REPLAYS
    print(f"wrong of {replays:,} decisions between equal settings, a look after each of {FIRST} to {BUDGET} seeds")
    print(f"{'settings':>10}{'images':>8}{'t-test each':>14}{'decide':>10}")
    for settings in (2, 5, 10):
        for images in (None, 1438, 72):
            values = _drawn(settings, replays, images=images)
            naive, shown = (_shown(values, level, images).any(axis=1) for level in (LEVEL, _level(settings)))
            print(f"{settings:>10}{images or 'any':>8}{_percent(naive.mean()):>14}{_percent(shown.mean()):>10}")
    print(
        "\nseeds of each setting until one pair is decided, and of the fixed design of equal power, or planned for 1.0"
    )
    head = f"{'settings':>10}{'budget':>8}{'difference':>12}{'power':>10}{'decide':>10}"
    print(f"{head}{'fixed':>8}{'ratio':>8}{'for 1.0':>10}{'ratio':>8}")
    for settings in (2, 5, 10):
        for budget in (20, 25, BUDGET):
            _seeds_used(settings, budget, replays)
    print(f"\nAdaStop and decide on the same streams, two settings, up to {BUDGET} seeds")
    print(f"{'common part':>12}{'difference':>12}{'AdaStop shown':>15}{'seeds':>8}{'decide shown':>15}{'seeds':>8}")
    for common in (COMMON, 0.0):
        for effect in (0.0, 1.0, 1.5):
            _against_adastop(_drawn(2, replays, effect, common=common), common, effect)
    print("\nedits kept of 100 that change nothing, of 200 loops (mean; more than 5; the first edit)")
    for name, accepts in (
        ("accept", edits.accepted(Rule(None, 20, boundary(1, 20)))),
        ("keep if better", edits.better),
    ):
        found = [edits.kept(edits.drawn(number, 100, 20), range(1, 101), accepts) for number in range(200)]
        mean, many, first = np.mean([(len(one), len(one) > 5, one[:1] == [1]) for one in found], axis=0)
        print(f"{name:>16}{mean:>8.1f}{_percent(many):>10}{_percent(first):>10}")


def _drawn(
    settings: int, replays: int, effect: float = 0.0, images: int | None = None, common: float = COMMON
) -> np.ndarray:
    """Accuracies [replays, settings, seeds]; the last setting is better by `effect` deviations of a paired difference.
    images: of which they are accuracies, that is multiples of 1 / images; None: any value."""
    random = np.random.default_rng([settings, int(10 * effect), images or 0, int(1000 * common)])
    values = 0.9 + random.normal(0, common, (replays, 1, BUDGET)) + random.normal(0, OWN, (replays, settings, BUDGET))
    values[:, -1] += effect * OWN * 2**0.5
    return np.round(values * images) / images if images else values


def _level(settings: int, budget: int = BUDGET) -> float:
    return boundary(settings - 1, budget)


def _shown(values: np.ndarray, level: float, images: int | None = None) -> np.ndarray:
    """Whether each pair with the first setting is shown to differ at each look, [replays, pairs * looks]."""
    each = [_at_looks(values[:, other] - values[:, 0], level, images) for other in range(1, values.shape[1])]
    return np.concatenate(each, axis=1)


def _at_looks(differences: np.ndarray, level: float, images: int | None = None) -> np.ndarray:
    limits = np.array([critical(n - 1, level) for n in range(FIRST, differences.shape[1] + 1)])
    statistics = t_statistics(differences)
    if images:  # the variance is that of the rounding at least, as in core/compare/sequential.py
        n = np.arange(FIRST, differences.shape[1] + 1)
        means = np.abs(differences.cumsum(axis=1)[:, FIRST - 1 :] / n)
        statistics = np.minimum(statistics, means * np.sqrt(6 * n) * images)
    return np.asarray(statistics > limits)


def _until(shown: np.ndarray) -> np.ndarray:
    """The number of seeds at the first look that shows a difference, or at the last look."""
    looks = shown.shape[1]
    return np.where(shown.any(axis=1), shown.argmax(axis=1), looks - 1) + FIRST


def _seeds_used(settings: int, budget: int, replays: int) -> None:
    level, planned = LEVEL / (settings - 1), 0
    for effect in (1.0, 1.5):
        values = _drawn(settings, replays, effect)[:, :, :budget]
        shown = _at_looks(values[:, -1] - values[:, 0], _level(settings, budget))
        used, reached = _until(shown).mean(), float(shown.any(axis=1).mean())
        asked = min(reached, 0.999)  # of 2,000 replays, no more can be told
        fixed = next(n for n in range(2, 1000) if power(effect, 1.0, n, True, level) >= asked)
        planned = planned or fixed
        row = f"{settings:>10}{budget:>8}{effect:>12}{_percent(reached):>10}{used:>10.1f}"
        print(f"{row}{fixed:>8}{used / fixed:>8.2f}{planned:>10}{used / planned:>8.2f}")


def _against_adastop(values: np.ndarray, common: float, effect: float) -> None:
    groups = [_adastop(values[start : start + AT_ONCE]) for start in range(0, len(values), AT_ONCE)]
    stopped = np.concatenate(groups)
    shown = _at_looks(values[:, 1] - values[:, 0], _level(2))
    ever = (stopped > 0).mean(), shown.any(axis=1).mean()
    seeds = np.where(stopped > 0, stopped, BUDGET).mean(), _until(shown).mean()
    row = "".join(f"{_percent(float(e)):>15}{n:>8.1f}" for e, n in zip(ever, seeds, strict=True))
    print(f"{'yes' if common else 'no':>12}{effect:>12}{row}")


def _adastop(values: np.ndarray) -> np.ndarray:
    """The number of seeds at which AdaStop shows a difference between two settings, [replays]; 0 where it never does.

    After each group, the absolute difference of the sums is compared with those of permutations within groups, and the
    error probability of LEVEL is spent equally over the groups, among permutations that have not been rejected before.
    """
    replays, _, seeds = values.shape
    count = seeds // GROUP
    random, both = np.random.default_rng(0), np.moveaxis(values.reshape(replays, 2, count, GROUP), 2, 1)
    pooled = both.reshape(replays, count, 2 * GROUP)
    pooled = pooled - pooled.mean(axis=2, keepdims=True)  # a permutation does not change it
    signs = np.r_[np.ones(GROUP), -np.ones(GROUP)]
    mixed = random.permuted(np.tile(signs, (count, PERMUTATIONS, 1)), axis=2)
    mixed[:, 0] = signs  # the identity is one of the permutations
    sums = np.abs(np.einsum("rki,kpi->rkp", pooled, mixed, optimize=True).cumsum(axis=1))
    stopped, alive = np.zeros(replays, dtype=int), np.ones((replays, PERMUTATIONS), dtype=bool)
    for place, spent in enumerate(_spent(count)):
        living = np.where(alive, sums[:, place], -1.0)
        limit = -np.partition(-living, spent, axis=1)[:, spent]  # at most `spent` are above it
        above = living > limit[:, None]
        stopped[above[:, 0] & (stopped == 0)] = (place + 1) * GROUP
        alive &= ~above
    return stopped


def _spent(groups: int) -> Iterator[int]:
    """The number of permutations that are rejected after each group; together LEVEL of all."""
    for place in range(groups):
        yield int(LEVEL * PERMUTATIONS * (place + 1) / groups) - int(LEVEL * PERMUTATIONS * place / groups)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
