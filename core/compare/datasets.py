"""Settings ranked over several data sets (Demsar, Statistical comparisons of classifiers, 2006)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.common.errors import UserError
from core.compare.comparison import Comparison, compare
from core.compare.runs import FINISHED, Row
from core.compare.statistics import LEVEL

LEAST_SETTINGS, LEAST_DATA = 3, 2
FEW = 5  # data sets, with fewer of which hardly any difference of ranks can be shown


@dataclass(frozen=True)
class Ranking:
    """Settings on several data sets.

    settings: labels, those of the smallest mean rank first.  data: names of the data sets.  means: of the seeds,
    float64 [settings, data].  ranks: mean rank of each setting, 1 is the best, float64 [settings].  p: of the
    hypothesis that all settings are equal (Friedman's test in the form of Iman and Davenport 1980; Demsar, section
    3.2.2).  critical: the difference of two mean ranks that is shown (Nemenyi's test, same section).
    """

    metric: str
    direction: int
    settings: tuple[str, ...]
    data: tuple[str, ...]
    means: np.ndarray
    ranks: np.ndarray
    p: float
    critical: float
    notes: tuple[str, ...]

    @property
    def shown(self) -> list[tuple[str, str]]:
        """(better, worse) of all pairs that are shown to differ; none unless the hypothesis of equality is rejected."""
        if not self.p < LEVEL:
            return []
        places = range(len(self.settings))
        pairs = ((i, j) for i in places for j in places if self.ranks[j] - self.ranks[i] >= self.critical)
        return [(self.settings[i], self.settings[j]) for i, j in pairs]


def ranked(
    rows: Sequence[Row], metric: str, anyway: bool = False, ignore: Sequence[str] = (), better: int | None = None
) -> Ranking:
    """Rank the settings that were trained on several data sets, which are told apart by their digests.

    A setting is the same on all of them if it has the same label, such as the name of a variant. Options are those of
    `compare`. Raises UserError for fewer than three settings or two data sets, for settings that are not on each of
    them, and if it is not known which values are better.
    """
    found = _by_data(rows, metric, anyway, ignore, better)
    if len(found) < LEAST_DATA:
        raise UserError([f"--datasets: these runs used {len(found)} data set; name runs of {LEAST_DATA} or more"])
    labels = {name: {group.label: group.summary[0] for group in one.groups} for name, one in found.items()}
    every = list(dict.fromkeys(label for own in labels.values() for label in own))
    if lacking := [
        f"--datasets: {name} has no setting {label} with {metric}, and {_where(label, labels)} has"
        for name, own in labels.items()
        for label in every
        if label not in own
    ]:
        advice = "the settings have to be the same on all data sets: train those that are missing, or name runs"
        raise UserError([*lacking, advice])
    if len(every) < LEAST_SETTINGS:
        advice = "labbook compare without --datasets compares two on each"
        raise UserError([f"--datasets: ranks need {LEAST_SETTINGS} settings or more; {advice}"])
    direction = next((one.direction for one in found.values() if one.direction), None)
    if direction is None:
        advice = "use --higher-is-better or --lower-is-better"
        raise UserError([f"whether larger or smaller values of {metric} are better is not known; {advice}"])
    means = np.array([[own[label] for own in labels.values()] for label in every])
    if odd := [label for label, row in zip(every, means, strict=True) if not np.isfinite(row).all()]:
        raise UserError([f"--datasets: {metric} of {', '.join(odd)} is not finite"])
    return _ranking(metric, direction, every, list(found), means, [n for one in found.values() for n in one.notes])


def _ranking(
    metric: str, direction: int, labels: Sequence[str], data: Sequence[str], means: np.ndarray, notes: Sequence[str]
) -> Ranking:
    from scipy.stats import f, friedmanchisquare, rankdata, studentized_range

    count, several = means.shape
    ranks = rankdata(-direction * means, axis=0).mean(axis=1)
    chi = 0.0 if (means == means[0]).all() else float(friedmanchisquare(*means).statistic)
    rest = several * (count - 1) - chi
    p = float(f.sf((several - 1) * chi / rest, count - 1, (count - 1) * (several - 1))) if rest > 0 else 0.0
    quantile = float(studentized_range.ppf(1 - LEVEL, count, math.inf)) / math.sqrt(2)
    critical = quantile * math.sqrt(count * (count + 1) / (6 * several))
    order = np.argsort(ranks, kind="stable")
    settings = tuple(labels[i] for i in order)
    return Ranking(metric, direction, settings, tuple(data), means[order], ranks[order], p, critical, tuple(notes))


def _by_data(
    rows: Sequence[Row], metric: str, anyway: bool, ignore: Sequence[str], better: int | None
) -> dict[str, Comparison]:
    """Name of a data set -> the comparison of its runs. Raises UserError."""
    if unknown := [row.id for row in rows if row.data is None and row.status == FINISHED]:
        raise UserError([f"--datasets: the data of {unknown[0]} are unknown; import it again with --data NAME"])
    names = {row.data: row.data_name or row.data[:12] for row in rows if row.data}
    several = len(set(names.values())) < len(names)
    return {
        f"{name} {digest[:8]}" if several else name: compare(
            [row for row in rows if row.data == digest], metric, None, None, anyway, ignore, better
        )
        for digest, name in names.items()
    }


def _where(label: str, labels: dict[str, dict[str, float]]) -> str:
    return next(name for name, own in labels.items() if label in own)


def sentences(found: Ranking) -> list[str]:
    """What the ranks show."""
    count = len(found.data)
    few = f"; with fewer than {FEW} data sets, ranks show hardly anything" if count < FEW else ""
    lines = [
        f"equality of all settings over {count} data sets: p = {found.p:.2g} (Friedman's test){few}",
        f"critical difference of two mean ranks: {found.critical:.2f} (Nemenyi's test)",
    ]
    shown = [f"{better} ranks before {worse}" for better, worse in found.shown]
    return lines + (shown or ["no difference between settings is shown"])
