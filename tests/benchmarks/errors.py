"""How often `labbook compare` says something false about equal settings, and how often it misses a true difference.

    python -m tests.benchmarks.errors [REPLAYS]

Each replay draws the results of K settings on n common seeds: 2 points of deviation that the seed has in common, and 1
point of each run. Three rules judge them: the paired t-test against the best setting, corrected by Holm's method, as
compare did before; the same against the base; and `compare` itself, which also names settings that cannot be the best.
The third table looks after every further seed. To reach: at most 5 % false tables, for compare, at every K, n and
looks.

In the last two tables, seeds and images are both drawn: an image is right if a latent value is above 0, the sum of what
the image, the seed, the setting on this image, the setting with this seed, and the rest contribute. Settings are equal
over all seeds and images, or the second one is better by a shift of its latent values. To reach: at most 5 % false
tables for intervals over both.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np

from core.compare.comparison import UNITS, Comparison, compare
from core.compare.images import Scores
from core.compare.looks import Pair
from core.compare.statistics import LEVEL, Difference, difference, holm
from tests.support.simulated import METRIC, rows

REPLAYS = 2000
COMMON, OWN = 0.02, 0.01
IMAGES, AT_ONCE = 300, 100
LATENT = {"constant": 2.0, "image": 2.0, "seed": 0.2, "setting on image": 0.7, "setting with seed": 0.2, "rest": 1.0}
SHIFTS = (0.5, 1.0)
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
    print(f"\nfalse tables of {replays:,}, settings equal over all seeds and images; intervals over")
    print(f"{'settings':>10}{'seeds':>8}" + "".join(f"{unit:>12}" for unit in UNITS))
    for settings in (2, 5, 10):
        for seeds in (3, 5, 10):
            shares = np.mean([_by_unit(right) for right in _answered(settings, seeds, replays)], axis=0)
            print(f"{settings:>10}{seeds:>8}" + "".join(f"{100 * share:>10.1f} %" for share in shares))
    print("\nshown of a true difference between two settings, of the mean size in points; intervals over")
    print(f"{'seeds':>10}{'points':>8}" + "".join(f"{unit:>12}" for unit in UNITS))
    for seeds in (3, 5, 10):
        for shift in SHIFTS:
            drawn = list(_answered(2, seeds, replays // 2, shift))
            points = 100 * np.mean([right[1].mean() - right[0].mean() for right in drawn])
            shares = np.mean([_by_unit(right) for right in drawn], axis=0)
            print(f"{seeds:>10}{points:>8.1f}" + "".join(f"{100 * share:>10.1f} %" for share in shares))


def _drawn(settings: int, seeds: int, number: int, effect: float = 0.0) -> np.ndarray:
    """Accuracies [settings, seeds]; the last setting is better by `effect` deviations of a paired difference."""
    random = np.random.default_rng([settings, seeds, number])
    values = 0.9 + random.normal(0, COMMON, seeds) + random.normal(0, OWN, (settings, seeds))
    values[-1] += effect * OWN * 2**0.5
    return values


def _answered(settings: int, seeds: int, replays: int, shift: float = 0.0) -> Iterator[np.ndarray]:
    """Whether answers are right, bool [settings, seeds, IMAGES], for each replay. shift: of the last setting."""
    random = np.random.default_rng([settings, seeds])
    shapes = {
        "image": (1, 1, IMAGES),
        "seed": (1, seeds, 1),
        "setting on image": (settings, 1, IMAGES),
        "setting with seed": (settings, seeds, 1),
        "rest": (settings, seeds, IMAGES),
    }
    for start in range(0, replays, AT_ONCE):
        count = min(AT_ONCE, replays - start)
        parts = (LATENT[name] * random.standard_normal((count, *of), dtype=np.float32) for name, of in shapes.items())
        latent = np.array(sum(parts, np.float32(LATENT["constant"])))
        latent[:, -1] += shift
        yield from latent > 0


def _by_unit(right: np.ndarray) -> list[bool]:
    """Whether compare shows a difference, for each of UNITS."""
    runs = rows(right.mean(axis=2))
    scores = Scores(dict(zip((run.id for run in runs), right.reshape(-1, IMAGES), strict=True)), "images", IMAGES)
    return [_shown(compare(runs, METRIC, unit=unit, read=lambda runs, metric: scores)) for unit in UNITS]


def _wrong(values: np.ndarray) -> tuple[bool, bool, bool]:
    """Whether a difference is shown: against the best setting, against the base, and by compare."""
    best = int(values.mean(axis=1).argmax())
    found = compare(rows(values), METRIC)
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
        found = compare(rows(values[:, :seeds]), METRIC, earlier=earlier)
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


if __name__ == "__main__":
    main()
