"""Runs folded into settings: one declaration, many seeds; and each setting set against a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.compare.reading import Row
from core.compare.statistics import LEVEL, Difference, difference, holm, seeds_needed
from core.history import sign
from core.part import Mistakes
from core.seeds import mean_and_interval
from core.spelling import did_you_mean


@dataclass(frozen=True)
class Group:
    """Runs of one setting. fields: declared alike in all of its runs.  values: what tells its runs apart (the seed;
    with `by`, all other fields too) -> the metric."""

    label: str
    fields: Mapping[str, str]
    rows: tuple[Row, ...]
    values: Mapping[tuple[str, ...], float]

    @property
    def summary(self) -> tuple[float, float, float]:
        """(mean, deviation, half of the 95 % interval); the last two NaN for one run."""
        return mean_and_interval(list(self.values.values()))

    def average(self, metric: str) -> float:
        """Mean of another metric, of the runs that have it; NaN where none has."""
        found = [row.metrics[metric] for row in self.rows if metric in row.metrics]
        return float(np.mean(found)) if found else float("nan")


@dataclass(frozen=True)
class Against:
    """A group set against the baseline. p: corrected for the number of comparisons.  more: seeds that each would need
    beyond its n to show a difference of this size (None: more than is sensible), where none is shown."""

    group: Group
    difference: Difference | None
    p: float
    more: int | None

    @property
    def shown(self) -> bool:
        return self.difference is not None and self.p < LEVEL


@dataclass(frozen=True)
class Comparison:
    """groups: best first.  against: each but the baseline, in the same order.  differing: names of the fields that are
    not the same in all.  notes: what was left out, and what to beware of."""

    metric: str
    groups: tuple[Group, ...]
    baseline: Group
    against: tuple[Against, ...]
    differing: tuple[str, ...]
    notes: tuple[str, ...]

    def judged(self, group: Group) -> Against | None:
        """This group set against the baseline; None for the baseline itself."""
        return next((one for one in self.against if one.group is group), None)


def compare(
    rows: Sequence[Row], metric: str, by: str | None = None, baseline: str | None = None, anyway: bool = False
) -> Comparison:
    """Fold runs into settings and set each against the baseline (named by a label, a variant or a run; the best).

    by: a field whose values alone make the settings.  anyway: also where data differ. Raises Mistakes.
    """
    rows, notes = _comparable(rows, metric, anyway)
    groups = sorted(_groups(rows, metric, by, notes), key=lambda group: -sign(metric) * group.summary[0])
    chosen = _chosen(groups, baseline)
    others = [group for group in groups if group is not chosen]
    found = [difference(group.values, chosen.values) for group in others]
    tested = [one for one in found if one]
    corrected = iter(holm([one.p for one in tested]))
    against = [
        Against(group, one, p := next(corrected) if one else float("nan"), _more(one, p, len(tested)))
        for group, one in zip(others, found, strict=True)
    ]
    names = {name for group in groups for name in group.fields}
    differing = sorted(n for n in names if len({group.fields.get(n) for group in groups}) > 1)
    return Comparison(metric, tuple(groups), chosen, tuple(against), tuple(differing), tuple(notes))


def _comparable(rows: Sequence[Row], metric: str, anyway: bool) -> tuple[list[Row], list[str]]:
    notes = []
    measured = [row for row in rows if metric in row.metrics]
    if not measured:
        known = sorted({name for row in rows for name in row.metrics})
        instead = metric.replace("test/", "val/", 1)
        if metric != instead and instead in known:
            why = "trials of a search do not test, an imported run has what its log has"
            raise Mistakes([f"no finished run has {metric}: {why}; take --metric {instead}"])
        hint = did_you_mean(metric, known) or (f"; there is {', '.join(known)}" if known else "")
        raise Mistakes([f"no finished run has {metric}{hint}"])
    if without := len(rows) - len(measured):
        notes.append(f"left out, without {metric}: {without}")
    whole = [row for row in measured if row.whole] or measured
    if small := len(measured) - len(whole):
        notes.append(f"left out, of limited data or pruned: {small}")
    if (unknown := sum(row.data is None for row in whole)) and len(whole) > 1:
        told = f"nobody said which data {unknown} imported {'run' if unknown == 1 else 'runs'} saw"
        if not anyway:
            advice = "import them again with --data NAME, or --anyway compares them all the same"
            raise Mistakes([f"{told}: their numbers may not compare; {advice}"])
        notes.append(f"warning: {told}")
    digests = {row.data for row in whole if row.data is not None}
    if len(digests) > 1:
        told = f"these runs saw {len(digests)} different sets of data ({', '.join(sorted(d[:12] for d in digests))})"
        if not anyway:
            raise Mistakes([f"{told}: their numbers do not compare; --anyway compares them all the same"])
        notes.append(f"warning: {told}")
    return whole, notes


def _groups(rows: Sequence[Row], metric: str, by: str | None, notes: list[str]) -> list[Group]:
    if by is not None and not any(by in row.fields for row in rows):
        names = {name for row in rows for name in row.fields}
        raise Mistakes([f"--by {by}: no such field{did_you_mean(by, names)}"])
    folded: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        own = {by: row.fields.get(by, "not there")} if by else row.fields
        folded.setdefault(tuple(sorted(own.items())), []).append(row)
    labels = _labels(folded, by)
    groups = []
    for key, members in folded.items():
        values: dict[tuple[str, ...], float] = {}
        for row in sorted(members, key=lambda row: row.id):  # the latest of a repeated one counts
            rest = sorted(f"{n}={v}" for n, v in row.fields.items() if by and not f"{n}.".startswith(f"{by}."))
            values[(row.seed, *rest)] = row.metrics[metric]
        if repeated := len(members) - len(values):
            notes.append(f"{labels[key]}: seeds run again: {repeated}; the latest counts")
        groups.append(Group(labels[key], dict(key), tuple(members), values))
    return groups


def _labels(folded: Mapping[tuple[tuple[str, str], ...], list[Row]], by: str | None) -> dict[object, str]:
    """What people call each: its variant, with the experiment's name where there are several, and the fields that set
    it apart from others of the same name."""
    if by:
        return {key: f"{by}={dict(key)[by]}" for key in folded}
    several = len({row.experiment for members in folded.values() for row in members}) > 1
    names: dict[object, str] = {}
    for key, members in folded.items():
        called = sorted({(row.experiment, row.variant or "base") for row in members})
        names[key] = " = ".join(f"{experiment}/{variant}" if several else variant for experiment, variant in called)
    for name in set(names.values()):
        same = [key for key in folded if names[key] == name]
        fields = {n for key in same for n in dict(key) if len({dict(k).get(n) for k in same}) > 1}
        for key in same if len(same) > 1 else []:
            own = ", ".join(f"{n}={v}" for n, v in key if n in fields and not _implied(n, fields))
            names[key] = f"{name} ({own})"
    return names


def _implied(name: str, fields: set[str]) -> bool:
    """Whether a part above it differs as well, which says enough."""
    return any(name.startswith(f"{other}.") for other in fields)


def _chosen(groups: Sequence[Group], baseline: str | None) -> Group:
    if baseline is None:
        return groups[0]
    for group in groups:
        if baseline in (group.label, *(row.id for row in group.rows)):
            return group
    named = [group for group in groups if group.label.partition(" (")[0] == baseline]
    if len(named) == 1:
        return named[0]
    labels = [group.label for group in groups]
    hint = did_you_mean(baseline, labels) or f"; there is {'; '.join(labels)}"
    raise Mistakes([f"--baseline {baseline}: {'several settings are' if named else 'no setting is'} called so{hint}"])


def _more(one: Difference | None, p: float, comparisons: int) -> int | None:
    if one is None or p < LEVEL:
        return None
    needed = seeds_needed(one.mean, one.deviation, one.paired, comparisons)
    return max(1, needed - one.n) if needed else None
