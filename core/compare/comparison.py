"""Compare settings: each with a baseline, and those that beat it with each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from core.common.errors import UserError
from core.common.text import did_you_mean
from core.compare.groups import Group, comparable, grouped, without
from core.compare.images import Reader, Scores, over_images
from core.compare.labels import distinctive_fields
from core.compare.looks import Looks, Pair, looked, pair_of, spent, turned
from core.compare.runs import Row, with_missing_fields
from core.compare.statistics import LEVEL, Difference, difference, first_family, second_family, seeds_needed
from core.metrics.names import direction
from core.record.ids import begun

SEEDS, IMAGES, BOTH = UNITS = ("seeds", "images", "both")  # what intervals are over
BESIDE = ("nll", "brier")  # proper scores, which are told beside an accuracy


@dataclass(frozen=True)
class Contrast:
    """A group compared with the baseline.

    difference: None if either has a single value, or one that is not finite.  p: corrected for the number of
    comparisons and of looks.  low, high: the 95 % interval, corrected in the same way.  look: the number of looks, 1
    for the first. margin: the smallest one within which the difference is shown to lie, by two one-sided tests
    (Schuirmann 1987), corrected like p.  more: additional seeds that each would need to show a difference of this size
    at the next look; None if the difference is significant, or if too many.
    """

    group: Group
    difference: Difference | None
    p: float = math.nan
    low: float = math.nan
    high: float = math.nan
    look: int = 1
    margin: float = math.nan
    more: int | None = None

    @property
    def significant(self) -> bool:
        return self.difference is not None and self.p < LEVEL


@dataclass(frozen=True)
class Comparison:
    """Settings compared by one metric.

    direction: 1 if larger values are better, -1 if smaller ones are, None if that is not known.  by: the field by which
    runs were grouped, or None.  groups: best first; without a direction, the largest first.  contrasts: one for each
    group but the baseline, in the same order.  differing: names of the fields that are not the same in all groups.
    notes: runs that were skipped, and warnings.  worse: {label: label of a setting that is shown to be better than it};
    all others may be the best.  equivalent: the margin within which settings are tested to be, or None.  looks: the
    present differences, for the record.  unit: what the intervals of differences are over, one of UNITS.  scores: of
    the images, if they are over images.  why: the reason why they are not, empty if that was asked for.  beside: names
    of the metrics beside this one.
    """

    metric: str
    direction: int | None
    by: str | None
    groups: tuple[Group, ...]
    baseline: Group
    contrasts: tuple[Contrast, ...]
    differing: tuple[str, ...]
    notes: tuple[str, ...]
    worse: Mapping[str, str] = field(default_factory=dict)
    equivalent: float | None = None
    looks: tuple[tuple[Pair, Difference], ...] = ()
    unit: str = SEEDS
    scores: Scores | None = None
    why: str = ""
    beside: tuple[str, ...] = ()

    def contrast_of(self, group: Group) -> Contrast | None:
        """Returns the comparison of this group with the baseline; None for the baseline itself."""
        return self._by_label.get(group.label)

    @cached_property
    def distinctive(self) -> dict[str, str]:
        """Label -> the values that distinguish the setting from most of the others, as text."""
        texts = distinctive_fields([group.fields for group in self.groups])
        return {group.label: text for group, text in zip(self.groups, texts, strict=True)}

    @cached_property
    def _by_label(self) -> dict[str, Contrast]:
        return {one.group.label: one for one in self.contrasts}


def compare(
    rows: Sequence[Row],
    metric: str,
    by: str | None = None,
    baseline: str | None = None,
    anyway: bool = False,
    ignore: Sequence[str] = (),
    better: int | None = None,
    earlier: Mapping[Pair, Sequence[Difference]] = MappingProxyType({}),
    equivalent: float | None = None,
    unit: str | None = None,
    read: Reader | None = None,
) -> Comparison:
    """Group runs into settings and compare each with the baseline.

    by: group by this field alone.  baseline: a label, a variant or a run; None: the base of the experiment or, without
    it, the setting that was trained first.  earlier: the looks on record. anyway: compare even if the data differ.
    ignore: fields that are ignored when runs are grouped, as the seed is; for example initial weights that differ for
    each seed.  better: 1 if larger values are better, -1 if smaller ones are; None: as the runs that declare the metric
    say, or else its name, if it is a known one.  read: gives the scores on each image; None: intervals are over seeds,
    and no other metric is told beside this one.  unit: what intervals are over, one of UNITS; None: both if there are
    scores of all runs, else seeds. Raises UserError.
    """
    declared = (row.directions.get(metric.partition("/")[2]) for row in rows)
    better = better or next(filter(None, declared), None) or direction(metric)
    chosen_rows, notes = comparable(without(ignore, with_missing_fields(rows)), metric, anyway)
    found = grouped(chosen_rows, metric, by, notes)
    unit, scores, why = _scores(found, metric, unit, read)
    found = [group.scored(scores) for group in found] if scores else _beside(found, metric) if read else found
    groups = sorted(found, key=lambda group: _place(group.summary[0], better or 1))
    if better is None and len(groups) > 1:
        notes.append(
            f"whether larger or smaller values of {metric} are better is not known, so no setting is called better; "
            "use --higher-is-better or --lower-is-better"
        )
    chosen = _chosen(groups, baseline)
    others = [group for group in groups if group is not chosen]
    notes += _advice(chosen, others, baseline or by)
    against = {group.label: _looks(group, chosen, metric, unit, earlier) for group in others}
    tested = {label: one for label, one in against.items() if one}
    ps, levels = first_family([one.p for one in tested.values()])
    corrected = dict(zip(tested, zip(ps, levels, strict=True), strict=True))
    contrasts = [_contrast(group, against[group.label], *corrected.get(group.label, (1.0, LEVEL))) for group in others]
    worse, pairs = _worse(chosen, contrasts, metric, better, unit, earlier) if better else ({}, {})
    names = {name for group in groups for name in group.fields}
    differing = sorted(n for n in names if len({group.fields.get(n) for group in groups}) > 1)
    firsts = {group.label: group.first for group in groups}
    seen = {(chosen.label, label): one for label, one in tested.items()} | pairs
    looks = [
        (pair_of(metric, firsts[a], firsts[b]), turned(one.present, firsts[b], firsts[a]))
        for (a, b), one in seen.items()
    ]
    return Comparison(
        metric=metric,
        direction=better,
        by=by,
        groups=tuple(groups),
        baseline=chosen,
        contrasts=tuple(contrasts),
        differing=tuple(differing),
        notes=tuple(notes),
        worse=worse,
        looks=tuple(looks),
        equivalent=equivalent,
        unit=unit,
        scores=scores,
        why=why,
        beside=tuple(groups[0].beside),
    )


def _scores(
    groups: Sequence[Group], metric: str, unit: str | None, read: Reader | None
) -> tuple[str, Scores | None, str]:
    """(what intervals are over; scores, if that is images; why it is not, unless that was asked for). Raises UserError
    if scores are asked for, and a run has none."""
    if unit == SEEDS or not read:
        return SEEDS, None, ""
    try:
        return unit or BOTH, read([row for group in groups for row in group.counted.values()], metric), ""
    except UserError as lacking:
        if unit:
            raise UserError([f"--unit {unit}: {lacking.lines[0]}", *lacking.lines[1:]]) from None
        return SEEDS, None, lacking.lines[0]


def _beside(groups: Sequence[Group], metric: str) -> list[Group]:
    """The groups with the proper scores that all of their runs recorded, if the metric is an accuracy."""
    split, _, quantity = metric.partition("/")
    counted = [row for group in groups for row in group.counted.values()]
    names = [f"{split}/{name}" for name in BESIDE if quantity == "accuracy"]
    names = [name for name in names if all(name in row.metrics for row in counted)]
    return [group.measured(names) for group in groups]


def _looks(
    group: Group, other: Group, metric: str, unit: str, earlier: Mapping[Pair, Sequence[Difference]]
) -> Looks | None:
    """All looks at the difference between two settings, group minus other; None if they cannot be compared."""
    overlaps = (group.overlap, other.overlap)
    if unit == SEEDS:
        found = difference(
            group.values, other.values, overlaps, max(group.resolution(metric), other.resolution(metric))
        )
    else:
        found = over_images(group.scores, other.scores, overlaps, seeds=unit == BOTH)
    if found is None:
        return None
    before = earlier.get(pair_of(metric, group.first, other.first), ())
    return looked([turned(one, group.first, other.first) for one in before], found)


def _contrast(group: Group, found: Looks | None, p: float, level: float) -> Contrast:
    if found is None:
        return Contrast(group, None)
    low, high = found.interval(level)
    margin = max(map(abs, found.interval(2 * level)))  # of two one-sided tests, each at this level
    look, more = len(found.differences), _more(found.present, p, level)
    return Contrast(group, found.present, p, low, high, look, margin, more)


def _worse(
    baseline: Group,
    contrasts: Sequence[Contrast],
    metric: str,
    better: int,
    unit: str,
    earlier: Mapping[Pair, Sequence[Difference]],
) -> tuple[dict[str, str], dict[tuple[str, str], Looks]]:
    """(the settings that are shown to be worse than another one, with its label; the looks at pairs without the
    baseline). A setting is compared with the others only if it is shown to be better than the baseline."""
    worse: dict[str, str] = {}
    seen: dict[tuple[str, str], Looks] = {}
    for one in contrasts:
        if not one.significant:
            continue
        if one.low * better < 0:  # both ends have the same sign
            worse.setdefault(one.group.label, baseline.label)
            continue
        worse.setdefault(baseline.label, one.group.label)
        found = {
            other.group.label: _looks(one.group, other.group, metric, unit, earlier)
            for other in contrasts
            if other is not one
        }
        tested = {label: looks for label, looks in found.items() if looks}
        ps = second_family(one.p, [looks.p for looks in tested.values()], len(contrasts))
        for (label, looks), p in zip(tested.items(), ps, strict=True):
            seen[label, one.group.label] = looks
            if p < LEVEL:
                pair = (one.group.label, label)
                above, below = pair if looks.clearest.mean * better > 0 else reversed(pair)
                worse.setdefault(below, above)
    return worse, seen


def _advice(chosen: Group, others: Sequence[Group], named: str | None) -> list[str]:
    """Notes about a baseline that was found by its date, and about settings whose seeds cannot be paired."""
    notes = []
    if others and not named and not _is_base(chosen):
        notes.append(f"no base among these runs: {chosen.label} was trained first; --baseline names another setting")
    several = [group for group in (chosen, *others) if len(group.values) > 1]
    apart = [one.label for one in several if one is not chosen and len(set(one.values) & set(chosen.values)) < 2]
    if apart and several[0] is chosen:
        fewer = "differences of paired seeds have narrower intervals"
        notes.append(f"not paired, for lack of two seeds in common with {chosen.label}: {', '.join(apart)}; {fewer}")
    return notes


def _is_base(group: Group) -> bool:
    """Whether its declaration is that of an experiment without a variant."""
    return any(row.variant is None for row in group.rows)


def _place(mean: float, better: int) -> tuple[bool, float]:
    """Sorts the best mean first, and one that is not a number last."""
    return math.isnan(mean), -better * mean


def _chosen(groups: Sequence[Group], baseline: str | None) -> Group:
    """The baseline. Unless it is named, it must not depend on the results: the best one of many would seem better than
    it is."""
    if baseline is None:

        def order(group: Group) -> tuple[bool, bool, tuple[str, ...]]:  # against a single seed, nothing could be tested
            return math.isnan(group.summary[2]), not _is_base(group), begun(group.first)

        return min(groups, key=order)
    for group in groups:
        if baseline in (group.label, *(row.id for row in group.rows)):
            return group
    named = [group for group in groups if group.label.partition(" (")[0] == baseline]
    if len(named) == 1:
        return named[0]
    labels = [group.label for group in groups]
    hint = did_you_mean(baseline, labels) or f"; choose one of {'; '.join(labels)}"
    raise UserError(
        [f"--baseline {baseline}: {'several settings have' if named else 'no setting has'} this name{hint}"]
    )


def _more(found: Difference, p: float, level: float) -> int | None:
    """The number of additional seeds with which the next look has a power of 80 %, if the difference is as measured."""
    if p < LEVEL or found.share == 1:
        return None
    needed = seeds_needed(found, lambda n: level * (spent(n) - spent(found.n)))
    return needed - found.n if needed else None
