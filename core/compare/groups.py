"""Runs folded into settings: one declaration, many seeds; and each setting set against a baseline."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from core.common.errors import UserError
from core.common.statistics import mean_and_interval
from core.common.text import did_you_mean
from core.compare.labels import Setting, apart, settings
from core.compare.runs import FINISHED, Row, with_younger_fields
from core.compare.statistics import LEVEL, Difference, difference, holm, seeds_needed
from core.metrics.names import sign

MOST_NAMED, MOST_LETTERS = 5, 120  # of failed seeds, and of the words about each


@dataclass(frozen=True)
class Group:
    """Runs of one setting. fields: declared alike in all of its runs.  rows: those that count.  values: what tells its
    runs apart (the seed; with `by`, all other fields too) -> the metric.  failed: of the seeds that have no value."""

    label: str
    fields: Mapping[str, str]
    rows: tuple[Row, ...]
    values: Mapping[tuple[str, ...], float]
    failed: tuple[Row, ...] = ()

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
        return self._by_label.get(group.label)

    @cached_property
    def apart(self) -> dict[str, str]:
        """Label -> what sets the setting apart from most of the others."""
        told = apart([group.fields for group in self.groups])
        return {group.label: text for group, text in zip(self.groups, told, strict=True)}

    @cached_property
    def _by_label(self) -> dict[str, Against]:
        return {one.group.label: one for one in self.against}


def compare(
    rows: Sequence[Row],
    metric: str,
    by: str | None = None,
    baseline: str | None = None,
    anyway: bool = False,
    ignore: Sequence[str] = (),
) -> Comparison:
    """Fold runs into settings and set each against the baseline (named by a label, a variant or a run; the best).

    by: a field whose values alone make the settings.  anyway: also where data differ.  ignore: fields that set nothing
    apart, as the seed does not: first weights, of which each seed has its own. Raises UserError.
    """
    chosen_rows, notes = _comparable(_without(ignore, with_younger_fields(rows)), metric, anyway)
    groups = sorted(_groups(chosen_rows, metric, by, notes), key=lambda group: -sign(metric) * group.summary[0])
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


def _without(names: Sequence[str], rows: Sequence[Row]) -> Sequence[Row]:
    known = {name for row in rows for name in row.fields}
    for name in names:
        if name not in known:
            raise UserError([f"--ignore {name}: unknown field{did_you_mean(name, known)}"])
    gone = {field for field in known if any(f"{field}.".startswith(f"{name}.") for name in names)}
    if not gone:
        return rows
    return [replace(row, fields={n: value for n, value in row.fields.items() if n not in gone}) for row in rows]


def _comparable(rows: Sequence[Row], metric: str, anyway: bool) -> tuple[list[Row], list[str]]:
    """(finished runs that compare, and with them those that did not finish; notes)."""
    notes = []
    finished = [row for row in rows if row.status == FINISHED]
    measured = [row for row in finished if metric in row.metrics]
    if not measured:
        known = sorted({name for row in finished for name in row.metrics})
        instead = metric.replace("test/", "val/", 1)
        if metric != instead and instead in known:
            why = "trials of a search are not tested, and an imported run has the metrics of its log"
            raise UserError([f"no finished run has {metric}: {why}; use --metric {instead}"])
        hint = did_you_mean(metric, known) or (f"; choose one of {', '.join(known)}" if known else "")
        raise UserError([f"no finished run has {metric}{hint}"])
    if without := len(finished) - len(measured):
        notes.append(f"skipped runs without {metric}: {without}")
    whole = [row for row in measured if row.whole] or measured
    if small := len(measured) - len(whole):
        notes.append(f"skipped runs with limited data, or pruned: {small}")
    if (unknown := sum(row.data is None for row in whole)) and len(whole) > 1:
        told = f"the data of {unknown} imported {'run' if unknown == 1 else 'runs'} are unknown"
        if not anyway:
            advice = "import them again with --data NAME, or use --anyway"
            raise UserError([f"{told}, so their metrics may not be comparable; {advice}"])
        notes.append(f"warning: {told}")
    digests = {row.data for row in whole if row.data is not None}
    if len(digests) > 1:
        told = f"these runs used {len(digests)} different data sets ({', '.join(sorted(d[:12] for d in digests))})"
        if not anyway:
            raise UserError([f"{told}: their metrics are not comparable; to compare them anyway, use --anyway"])
        notes.append(f"warning: {told}")
    limits = {row.fields.get("limit") for row in whole}
    stopped = [row for row in rows if row.status != FINISHED and row.fields.get("limit") in limits]
    return [*whole, *stopped], notes


def _groups(rows: Sequence[Row], metric: str, by: str | None, notes: list[str]) -> list[Group]:
    if by is not None and not any(by in row.fields for row in rows):
        names = {name for row in rows for name in row.fields}
        raise UserError([f"--by {by}: unknown field{did_you_mean(by, names)}"])
    folded: dict[Setting, list[Row]] = {}
    for row in rows:
        own = {by: row.fields.get(by, "not there")} if by else row.fields
        folded.setdefault(tuple(sorted(own.items())), []).append(row)
    labels = settings(folded, by)
    groups = []
    for key, members in folded.items():
        values: dict[tuple[str, ...], float] = {}
        stopped: dict[tuple[str, ...], Row] = {}
        finished = [row for row in members if row.status == FINISHED]
        for row in sorted(members, key=lambda row: row.id):  # the latest of a repeated one counts
            rest = sorted(f"{n}={v}" for n, v in row.fields.items() if by and not f"{n}.".startswith(f"{by}."))
            one = (row.seed, *rest)
            if row.status == FINISHED:
                values[one] = row.metrics[metric]
            else:
                stopped[one] = row
        if repeated := len(finished) - len(values):
            notes.append(f"{labels[key]}: seeds run again: {repeated}; the latest counts")
        notes += _stopped(labels[key], values, stopped, "runs" if by else "seeds")
        failed = tuple(row for one, row in stopped.items() if one not in values)
        if values:
            groups.append(Group(labels[key], dict(key), tuple(finished), values, failed))
    return groups


def _stopped(label: str, values: Collection[object], stopped: Mapping[tuple[str, ...], Row], what: str) -> list[str]:
    """Sentences about runs that did not finish: a mean over survivors is to be read as one."""
    lost = {one: row for one, row in stopped.items() if one not in values}
    told, total = [], len(values) + len(lost)
    for said, chosen in (
        ("failed", [row for row in lost.values() if row.status == "FAILED"]),
        ("not finished", [row for row in lost.values() if row.status != "FAILED"]),
    ):
        if chosen:
            each = "; ".join(f"seed {row.seed}: {why(row)}" for row in chosen[:MOST_NAMED])
            more = f"; {len(chosen) - MOST_NAMED} more" if len(chosen) > MOST_NAMED else ""
            told.append(f"{label}: {len(chosen)} of {total} {what} {said} ({each}{more})")
    again = [row for one, row in stopped.items() if one in values and row.status == "FAILED"]
    if again:
        each = "; ".join(f"seed {row.seed}: {why(row)}" for row in again[:MOST_NAMED])
        told.append(f"{label}: {len(again)} of {total} {what} failed at first and finished when run again ({each})")
    return told


def why(row: Row) -> str:
    """What became of a run that did not finish, in a few words."""
    if row.status != "FAILED":
        return "running, or interrupted"
    first = row.error.partition("\n")[0] or "FAILED"
    return first if len(first) <= MOST_LETTERS else f"{first[: MOST_LETTERS - 3]}..."


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
    hint = did_you_mean(baseline, labels) or f"; choose one of {'; '.join(labels)}"
    raise UserError(
        [f"--baseline {baseline}: {'several settings have' if named else 'no setting has'} this name{hint}"]
    )


def _more(one: Difference | None, p: float, comparisons: int) -> int | None:
    if one is None or p < LEVEL:
        return None
    needed = seeds_needed(one.mean, one.deviation, one.paired, comparisons)
    return max(1, needed - one.n) if needed else None
