"""Looks: the same settings compared again on more seeds. Each look is on record, and all of them together are wrong
with a probability of at most 5 %.

The error probability is spent as seeds are added (Lan and DeMets, Discrete sequential boundaries for clinical trials,
1983): by n seeds, 1 - 2^(-n/3) of it, that is half of it by 3 seeds and nine tenths by 10. A look has what was spent
since the look before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from core.common import lines
from core.compare.statistics import LEVEL, Difference

HALVED = 3.0  # number of seeds after which half of the remaining error probability is spent
FILE = "looks.jsonl"

# metric, first run of the one setting, first run of the other one; these two in the order of their ids
Pair = tuple[str, str, str]


@dataclass(frozen=True)
class Looks:
    """The differences of two settings at each look, with fewer seeds first; the last one is the present one."""

    differences: tuple[Difference, ...]

    @property
    def present(self) -> Difference:
        return self.differences[-1]

    @property
    def clearest(self) -> Difference:
        """The difference at the look that decides p."""
        return min(zip(self.differences, self.shares, strict=True), key=lambda look: look[0].p / look[1])[0]

    @property
    def shares(self) -> list[float]:
        """The part of the error probability that each look has."""
        spent_by = [spent(one.n) for one in self.differences]
        return [now - before for now, before in zip(spent_by, [0.0, *spent_by], strict=False)]

    @property
    def p(self) -> float:
        """Sequential p-value: the probability that it ever falls below a level is at most that level, if there is no
        difference."""
        return min(1.0, *(one.p / share for one, share in zip(self.differences, self.shares, strict=True)))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """(low, high): the true difference lies within all intervals of all looks with probability 1 - level."""
        each = [one.interval(level * share) for one, share in zip(self.differences, self.shares, strict=True)]
        low, high = max(low for low, _ in each), min(high for _, high in each)
        return (low, high) if low <= high else each[-1]


def spent(n: int) -> float:
    """The part of the error probability that is spent by n seeds."""
    return float(1.0 - 2.0 ** (-n / HALVED))


def pair_of(metric: str, first: str, second: str) -> Pair:
    """The name of a pair of settings, given by the ids of their first runs, which stay the same as seeds are added."""
    return (metric, *sorted((first, second)))  # type: ignore[return-value]


def turned(found: Difference, first: str, second: str) -> Difference:
    """A difference in the direction in which it is on record."""
    if first <= second:
        return found
    flips = found.flips and (found.flips[1], found.flips[0])
    return replace(found, mean=-found.mean, means=(found.means[1], found.means[0]), flips=flips)


def looked(earlier: Sequence[Difference], present: Difference) -> Looks:
    """The looks up to the present one: earlier ones count if they were at fewer seeds, so that the same comparison has
    the same result however often it is repeated."""
    before = {one.n: one for one in earlier if one.n < present.n}
    return Looks((*(before[n] for n in sorted(before)), present))


def read(path: Path) -> dict[Pair, list[Difference]]:
    """The looks on record. Raises UserError."""
    found: dict[Pair, list[Difference]] = {}
    for entry in lines.read(path):
        with suppress(ValueError, KeyError, TypeError):
            metric, first, second = entry["pair"]
            fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in entry["difference"].items()}
            found.setdefault((metric, first, second), []).append(Difference(**fields))
    return found


def write(path: Path, new: Iterable[tuple[Pair, Difference]], known: Mapping[Pair, Sequence[Difference]]) -> None:
    """Append the looks that are not on record. Raises OSError."""
    fresh = [(pair, one) for pair, one in new if one not in known.get(pair, ())]
    if fresh:
        lines.append(path, [{"pair": pair, "difference": asdict(one)} for pair, one in fresh])
