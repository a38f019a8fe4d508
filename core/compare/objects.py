"""A comparison as JSON, for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from core.common.statistics import mean_and_interval
from core.compare.comparison import Comparison
from core.compare.datasets import Ranking
from core.compare.datasets import sentences as ranks
from core.compare.groups import Group
from core.compare.statistics import difference
from core.compare.table import foot, sentences
from core.record.ledger import Readings


def as_json(
    comparison: Comparison,
    skipped: Sequence[str] = (),
    warnings: Sequence[str] = (),
    readings: Sequence[Readings] = (),
) -> str:
    """Returns the comparison as JSON, with unrounded numbers; what is not known is null. skipped: lines about runs that
    were not read.  warnings: what else was told.  readings: of the test splits."""
    scores = comparison.scores
    found = {
        "metric": comparison.metric,
        "direction": comparison.direction,
        "baseline": comparison.baseline.label,
        "unit": comparison.unit,
        "images": scores.images if scores else None,
        "images_left_out": scores.left_out if scores else None,
        "intervals": foot(comparison),
        "settings": [_as_object(comparison, group) for group in comparison.groups],
        "sentences": [*sentences(comparison)],
        "notes": [*comparison.notes],
        "skipped": [*skipped],
        "warnings": [*warnings],
        "test_readings": [{"data": one.name, "digest": one.digest, "total": one.total} for one in readings],
    }
    return json.dumps(found, indent=1) + "\n"


def ranking_json(found: Ranking, skipped: Sequence[str] = (), warnings: Sequence[str] = ()) -> str:
    """Returns a ranking as JSON, with unrounded numbers. skipped, warnings: as of `as_json`."""
    settings = [
        {"setting": label, "mean_rank": rank, "means": dict(zip(found.data, means, strict=True))}
        for label, rank, means in zip(found.settings, found.ranks.tolist(), found.means.tolist(), strict=True)
    ]
    fields = {"metric": found.metric, "direction": found.direction, "datasets": [*found.data], "settings": settings}
    fields |= {"p": found.p, "critical_difference": found.critical, "shown": [*found.shown]}
    fields |= {"sentences": ranks(found), "notes": [*found.notes], "skipped": [*skipped], "warnings": [*warnings]}
    return json.dumps(fields, indent=1) + "\n"


def _as_object(comparison: Comparison, group: Group) -> dict[str, Any]:
    mean, deviation, half = (_finite(number) for number in group.summary)
    one = comparison.contrast_of(group)
    against = None
    if one and one.difference:
        figures = {
            "difference": one.difference.mean,
            "low": one.low,
            "high": one.high,
            "p": one.p,
            "margin": one.margin,
        }
        against = {name: _finite(number) for name, number in figures.items()}
        against |= {"n": one.difference.n, "paired": one.difference.paired, "look": one.look, "shown": one.significant}
        against["images"] = one.difference.images or None
    return {
        "setting": group.label,
        "runs": [row.id for row in group.rows],
        "n": len(group.values),
        "failed": len(group.failed),
        "mean": mean,
        "deviation": deviation,
        "half_interval": half,
        "beside": {name: _beside(comparison, group, name) for name in comparison.beside},
        "against_baseline": against,
        "may_be_best": group.label not in comparison.worse if comparison.direction else None,
        "worse_than": comparison.worse.get(group.label),
        "fields": {name: group.fields.get(name) for name in comparison.differing},
    }


def _beside(comparison: Comparison, group: Group, name: str) -> dict[str, float | None]:
    """A metric beside the compared one, with its difference over seeds and the 95 % interval, which is not corrected
    for comparisons or looks: to decide by it, compare by it."""
    own, base = group.beside[name], comparison.baseline.beside[name]
    figures = dict(
        zip(("mean", "deviation", "half_interval"), mean_and_interval([*own.values()], group.overlap), strict=True)
    )
    apart = (
        difference(own, base, (group.overlap, comparison.baseline.overlap))
        if group is not comparison.baseline
        else None
    )
    if apart:
        figures |= dict(zip(("difference", "low", "high"), (apart.mean, *apart.interval()), strict=True))
    return {each: _finite(number) for each, number in figures.items()}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
