"""How often `labbook compare` and `labbook decide` are wrong on the bank of runs, whose truth is known (tests/bank).

    python -m tests.benchmarks.bank_decisions [FOLDER [REPLAYS]]

FOLDER is that of `python -m tests.bank`. Seeds are drawn from those of the bank with replacement, so that the mean of a
declaration over the bank is its true mean. Equal settings are the same declaration with seeds of its own for each;
different ones are declarations of the better half of the bank, with seeds in common. A table is wrong if it shows a
difference that is none, or the worse of two settings as the better one. To reach: at most 5 %.

A fixed design has one t-test, at the number of seeds that gives it the power of the decision at the mean difference of
these pairs, in deviations of a paired difference.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from core.compare.comparison import Comparison, compare
from core.compare.sequential import Look, Rule, boundary, deciding_look
from core.compare.statistics import power
from tests.bank.replay import Bank, load
from tests.bank.trained import folder
from tests.support.simulated import METRIC, rows

REPLAYS, BUDGET = 1000, 40
IMAGES = 1079  # of the val split
EFFECTS = ((0.5, 0.8), (0.8, 1.2), (1.2, 1.8))


def main() -> None:
    """Print the tables."""
    words = sys.argv[1:]
    bank = load(Path(words[0]) if words else folder())
    replays = int(words[1]) if len(words) > 1 else REPLAYS
    print(f"bank of {' x '.join(map(str, bank.scores.shape))} (declarations, seeds), {replays:,} replays each")
    print("\nlabbook compare: wrong tables; settings shown to differ from the base, or not to be the best")
    print(f"{'settings':>10}{'seeds':>8}{'equal: wrong':>14}{'different: wrong':>18}{'shown':>9}")
    for settings, seeds in itertools.product((2, 5, 10), (3, 5, 10)):
        same = [bool(_shown(one)) for one, _ in _compared(bank, replays, settings, seeds, equal=True)]
        other = [(_is_wrong(one, means), len(_shown(one))) for one, means in _compared(bank, replays, settings, seeds)]
        wrong, shown = np.mean(other, axis=0)
        line = f"{_percent(np.mean(same)):>14}{_percent(wrong):>18}{_percent(shown / (settings - 1)):>9}"
        print(f"{settings:>10}{seeds:>8}{line}", flush=True)
    print(f"\nlabbook decide: wrong decisions with a look after each of up to {BUDGET} seeds")
    print(f"{'settings':>10}{'equal: wrong':>14}{'different: wrong':>18}{'shown':>9}{'seeds':>8}")
    for settings in (2, 5, 10):
        rule = Rule(None, BUDGET, boundary(settings - 1, BUDGET))
        same = [any(_is_shown(look) for look, _ in each) for each in _decided(bank, replays, settings, rule, True)]
        other = list(_decided(bank, replays, settings, rule))
        wrong = np.mean([any(_is_shown(k) and k.mean * true <= 0 for k, true in each) for each in other])
        flat = [look for each in other for look, _ in each]
        line = f"{_percent(np.mean([_is_shown(look) for look in flat])):>9}{np.mean([look.n for look in flat]):>8.1f}"
        print(f"{settings:>10}{_percent(np.mean(same)):>14}{_percent(wrong):>18}{line}", flush=True)
    print("\nseeds until two declarations are decided, and of the fixed design of equal power")
    print(f"{'difference':>12}{'pairs':>8}{'shown':>9}{'seeds':>8}{'fixed':>8}{'ratio':>8}")
    for low, high in EFFECTS:
        print(_seeds_used(bank, replays, low, high), flush=True)


def _drawn(bank: Bank, number: int, settings: int, seeds: int, equal: bool) -> tuple[np.ndarray, np.ndarray]:
    """(scores [settings, seeds], the true mean of each setting)."""
    random = np.random.default_rng([number, settings, seeds])
    scores, count = bank.scores, bank.scores.shape[1]
    if equal:
        chosen = np.full(settings, random.integers(len(scores)))
        places = random.integers(count, size=(settings, seeds))
    else:
        better = np.argsort(-bank.means)[: len(scores) // 2]
        chosen = random.choice(better, settings, replace=False)
        places = np.tile(random.integers(count, size=seeds), (settings, 1))
    return scores[chosen[:, None], places], bank.means[chosen]


def _compared(
    bank: Bank, replays: int, settings: int, seeds: int, equal: bool = False
) -> Iterator[tuple[Comparison, np.ndarray]]:
    for number in range(replays):
        values, means = _drawn(bank, number, settings, seeds, equal)
        yield compare(rows(values, IMAGES), METRIC), means


def _shown(found: Comparison) -> set[str]:
    """Labels of the settings that are shown to differ from the base, and of those that are shown not to be the best."""
    return {one.group.label for one in found.contrasts if one.significant} | (set(found.worse) - {found.baseline.label})


def _is_wrong(found: Comparison, means: np.ndarray) -> bool:
    true = {group.label: means[int(group.fields["optimizer.lr"])] for group in found.groups}
    base = true[found.baseline.label]
    signs = [
        one.difference.mean * (true[one.group.label] - base) <= 0
        for one in found.contrasts
        if one.significant and one.difference
    ]
    return any(signs) or any(true[below] >= true[above] for below, above in found.worse.items())


def _decided(
    bank: Bank, replays: int, settings: int, rule: Rule, equal: bool = False
) -> Iterator[list[tuple[Look, float]]]:
    """The deciding look at each pair with the last setting, and its true difference."""
    for number in range(replays):
        values, means = _drawn(bank, number, settings, rule.budget, equal)
        yield [(_look(one, values[-1], rule), mean - means[-1]) for one, mean in zip(values, means, strict=True)][:-1]


def _look(one: Sequence[float], other: Sequence[float], rule: Rule) -> Look:
    look = deciding_look(dict(enumerate(one)), dict(enumerate(other)), rule, 1 / IMAGES)
    assert look
    return look


def _is_shown(look: Look) -> bool:
    return look.verdict == "shown"


def _seeds_used(bank: Bank, replays: int, low: float, high: float) -> str:
    """A line of the table for pairs whose true difference is low to high deviations of a paired difference."""
    apart = bank.scores[:, None] - bank.scores
    effects = np.abs(apart.mean(axis=2)) / np.maximum(apart.std(axis=2), 1 / IMAGES)
    pairs = np.argwhere(np.triu((low <= effects) & (effects < high)))
    random, rule = np.random.default_rng(0), Rule(None, BUDGET, boundary(1, BUDGET))
    looks, sizes = [], []
    for one, other in pairs[random.integers(len(pairs), size=replays)]:
        places = random.integers(bank.scores.shape[1], size=BUDGET)
        looks.append(_look(bank.scores[one, places], bank.scores[other, places], rule))
        sizes.append(effects[one, other])
    reached, used = np.mean([_is_shown(look) for look in looks]), np.mean([look.n for look in looks])
    asked = min(float(reached), 0.999)
    fixed = next(n for n in range(2, 1000) if np.mean([power(size, 1.0, n, True) for size in sizes[:50]]) >= asked)
    return f"{f'{low} to {high}':>12}{len(pairs):>8}{_percent(reached):>9}{used:>8.1f}{fixed:>8}{used / fixed:>7.2f}x"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
