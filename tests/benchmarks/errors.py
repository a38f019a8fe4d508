"""How often `labbook compare` says something false about equal settings, and how often it misses a true difference.

    python -m tests.benchmarks.errors [REPLAYS]

Each replay draws the results of K settings on n common seeds: 2 points of deviation that the seed has in common, and 1
point of each run. Three rules judge them: the paired t-test against the best setting, corrected by Holm's method, as
compare did before; the same against the base; and `compare` itself, which also names settings that cannot be the best.
The last table looks after every further seed. To reach: at most 5 % false tables, for compare, at every K, n and looks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from core.compare.comparison import Comparison, compare
from core.compare.looks import Pair
from core.compare.runs import Row
from core.compare.statistics import LEVEL, Difference, difference, holm

REPLAYS = 2000
COMMON, OWN = 0.02, 0.01
METRIC = "val/accuracy"
LOOKS = ((3, 14), tuple(range(3, 11)), tuple(range(3, 21)))


def main() -> None:
    """Print the tables."""
    replays = int(sys.argv[1]) if len(sys.argv) > 1 else REPLAYS
    print(f"false tables of {replays:,} in which all settings are equal")
    print(f"{'settings':>10}{'seeds':>8}{'best, Holm':>14}{'base, Holm':>14}{'compare':>12}")
    for settings in (2, 5, 10):
        for seeds in (3, 5, 10):
            each = [_wrong(_drawn(settings, seeds, number)) for number in range(replays)]
            print(f"{settings:>10}{seeds:>8}" + "".join(f"{100 * share:>12.1f} %" for share in np.mean(each, axis=0)))
    print("\nshown of a true difference between two settings, in deviations of a paired difference")
    print(f"{'seeds':>10}{'difference':>12}{'t-test':>12}{'compare':>12}")
    for seeds in (3, 5, 10, 20):
        for effect in (1.0, 1.5, 2.0):
            each = [_wrong(_drawn(2, seeds, number, effect))[1:] for number in range(replays)]
            shown = "".join(f"{100 * share:>10.1f} %" for share in np.mean(each, axis=0))
            print(f"{seeds:>10}{effect:>12.1f}{shown}")
    print("\nfalse at any look, two equal settings")
    print(f"{'looks after seeds':>20}{'t-test':>12}{'compare':>12}")
    for looks in LOOKS:
        each = [_ever(_drawn(2, looks[-1], number), looks) for number in range(replays)]
        name = ", ".join(map(str, looks)) if len(looks) < 4 else f"{looks[0]} to {looks[-1]}, each"
        print(f"{name:>20}" + "".join(f"{100 * share:>10.1f} %" for share in np.mean(each, axis=0)))


def _drawn(settings: int, seeds: int, number: int, effect: float = 0.0) -> np.ndarray:
    """Accuracies [settings, seeds]; the last setting is better by `effect` deviations of a paired difference."""
    random = np.random.default_rng([settings, seeds, number])
    values = 0.9 + random.normal(0, COMMON, seeds) + random.normal(0, OWN, (settings, seeds))
    values[-1] += effect * OWN * 2**0.5
    return values


def _wrong(values: np.ndarray) -> tuple[bool, bool, bool]:
    """Whether a difference is shown: against the best setting, against the base, and by compare."""
    best = int(values.mean(axis=1).argmax())
    found = compare(_rows(values), METRIC)
    return _by_holm(values, best), _by_holm(values, 0), _shown(found)


def _by_holm(values: np.ndarray, base: int) -> bool:
    others = [row for place, row in enumerate(values) if place != base]
    ps = [_paired(row, values[base]).p for row in others]
    return min(holm(ps)) < LEVEL


def _ever(values: np.ndarray, looks: Sequence[int]) -> tuple[bool, bool]:
    """Whether a difference is shown at any look, by the t-test and by compare."""
    earlier: dict[Pair, list[Difference]] = {}
    naive = shown = False
    for seeds in looks:
        naive |= _paired(values[0, :seeds], values[1, :seeds]).p < LEVEL
        found = compare(_rows(values[:, :seeds]), METRIC, earlier=earlier)
        shown |= _shown(found)
        for pair, one in found.looks:
            earlier.setdefault(pair, []).append(one)
    return naive, shown


def _shown(found: Comparison) -> bool:
    return bool(found.worse) or any(one.significant for one in found.contrasts)


def _paired(a: np.ndarray, b: np.ndarray) -> Difference:
    found = difference(dict(enumerate(a)), dict(enumerate(b)))
    assert found is not None
    return found


def _rows(values: np.ndarray) -> list[Row]:
    """A finished run for each value; the first setting is the base."""
    return [
        Row(
            f"sim-20260101-{100 * setting + seed:06d}-0000",
            "sim",
            f"v{setting}" if setting else None,
            str(seed),
            {"optimizer.lr": str(setting)},
            {METRIC: float(value)},
            "d1",
            1000,
            True,
        )
        for setting, of_seeds in enumerate(values)
        for seed, value in enumerate(of_seeds)
    ]


if __name__ == "__main__":
    main()
