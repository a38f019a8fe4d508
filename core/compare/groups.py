"""Group runs that differ only in the seed, or the fold, into settings, and compare each setting with a baseline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from core.common.errors import UserError
from core.common.statistics import mean_and_interval
from core.common.text import did_you_mean
from core.compare.labels import MISSING, Setting, distinctive_fields, settings
from core.compare.runs import FINISHED, FOLD, Row, with_missing_fields
from core.compare.statistics import LEVEL, Difference, difference, holm, holm_levels, seeds_needed
from core.metrics.names import direction

DATA = "data.images"  # the field that tells apart the data sets of a comparison, in addition to the declared ones
MOST_NAMED, MOST_LETTERS = 5, 120  # failed seeds that are named, and letters of the message about each


@dataclass(frozen=True)
class Group:
    """Runs of one setting.

    fields: declared values that all of its runs share.  rows: its finished runs.  values: key of a run -> its metric;
    the key is the seed, with its fold, and, with `by`, all other fields.  failed: the runs of keys without a value.
    """

    label: str
    fields: Mapping[str, str]
    rows: tuple[Row, ...]
    values: Mapping[tuple[str, ...], float]
    failed: tuple[Row, ...] = ()

    @property
    def summary(self) -> tuple[float, float, float]:
        """(mean, standard deviation, half width of the 95 % interval); the last two are NaN for one run."""
        return mean_and_interval(list(self.values.values()), self.overlap)

    @property
    def overlap(self) -> float:
        """For runs on folds, number of val images divided by that of training images, which corrects intervals; else
        0."""
        folds = self.fields.get(f"{FOLD}.folds", "")
        return 1 / (int(folds) - 1) if folds.isdecimal() else 0.0

    def average(self, metric: str) -> float:
        """Returns the mean of another metric over the runs that have it; NaN if none has."""
        values = [row.metrics[metric] for row in self.rows if metric in row.metrics]
        return float(np.mean(values)) if values else float("nan")


@dataclass(frozen=True)
class Contrast:
    """A group compared with the baseline.

    difference: None if either has a single value, or one that is not finite; its interval is corrected like p.  p:
    corrected for the number of comparisons.  more: additional seeds that each would need to show a difference of this
    size; None if the difference is significant, or if too many.
    """

    group: Group
    difference: Difference | None
    p: float
    more: int | None

    @property
    def significant(self) -> bool:
        return self.difference is not None and self.p < LEVEL


@dataclass(frozen=True)
class Comparison:
    """Settings compared by one metric.

    direction: 1 if larger values are better, -1 if smaller ones are, None if that is not known.  by: the field by which
    runs were grouped, or None.  groups: best first;
    without a direction, the largest first.  contrasts: one for each group but the baseline, in the same order.
    differing: names of the fields that are not the same in all groups.  notes: runs that were skipped, and warnings.
    """

    metric: str
    direction: int | None
    by: str | None
    groups: tuple[Group, ...]
    baseline: Group
    contrasts: tuple[Contrast, ...]
    differing: tuple[str, ...]
    notes: tuple[str, ...]

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
) -> Comparison:
    """Group runs into settings and compare each with the baseline.

    by: group by this field alone.  baseline: a label, a variant or a run; None: the best setting with several seeds.
    anyway: compare even if the data differ.  ignore: fields that are ignored when runs are grouped, as the seed is; for
    example initial weights that differ for each seed.  better: 1 if larger values are better, -1 if smaller ones are;
    None: as the runs that declare the metric say, or else its name, if it is a known one. Raises UserError.
    """
    declared = (row.directions.get(metric.partition("/")[2]) for row in rows)
    better = better or next(filter(None, declared), None) or direction(metric)
    chosen_rows, notes = _comparable(_without(ignore, with_missing_fields(rows)), metric, anyway)
    groups = sorted(_groups(chosen_rows, metric, by, notes), key=lambda group: _place(group.summary[0], better or 1))
    if better is None and len(groups) > 1:
        notes.append(
            f"whether larger or smaller values of {metric} are better is not known, so no setting is called better; "
            "use --higher-is-better or --lower-is-better"
        )
    chosen = _chosen(groups, baseline)
    others = [group for group in groups if group is not chosen]

    def against_chosen(group: Group, level: float = LEVEL) -> Difference | None:
        return difference(group.values, chosen.values, level, (group.overlap, chosen.overlap))

    found = [against_chosen(group) for group in others]
    ps = [one.p for one in found if one]
    corrected = iter(zip(holm(ps), holm_levels(ps), strict=True))
    against = []
    for group, one in zip(others, found, strict=True):
        p, level = next(corrected) if one else (math.nan, LEVEL)
        shown = against_chosen(group, level) if level < LEVEL else one
        against.append(Contrast(group, shown, p, _more(one, p, len(ps))))
    names = {name for group in groups for name in group.fields}
    differing = sorted(n for n in names if len({group.fields.get(n) for group in groups}) > 1)
    return Comparison(metric, better, by, tuple(groups), chosen, tuple(against), tuple(differing), tuple(notes))


def _place(mean: float, better: int) -> tuple[bool, float]:
    """Sorts the best mean first, and one that is not a number last."""
    return math.isnan(mean), -better * mean


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
    """(finished runs that are comparable, followed by runs of the same kind that did not finish; notes)."""
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
        warning = f"the data of {unknown} imported {'run' if unknown == 1 else 'runs'} are unknown"
        if not anyway:
            advice = "import them again with --data NAME, or use --anyway"
            raise UserError([f"{warning}, so their metrics may not be comparable; {advice}"])
        notes.append(f"warning: {warning}")
    if len({row.data for row in whole if row.data is not None}) > 1:
        counts = Counter(_data(row) for row in whole if row.data is not None)
        listed = ", ".join(f"{name} in {n} {'run' if n == 1 else 'runs'}" for name, n in sorted(counts.items()))
        warning = f"these runs used {len(counts)} different data sets ({listed})"
        if not anyway:
            each = [f"{_data(row)}: {row.id}" for row in whole]
            advice = "name the runs of one of them (labbook compare RUN RUN), or use --anyway"
            raise UserError(
                [f"{warning}, so their metrics are not comparable; {advice}", *sorted(each)[: 4 * MOST_NAMED]]
            )
        notes.append(f"warning: {warning}")
    limits = {row.fields.get("limit") for row in whole}
    stopped = [row for row in rows if row.status != FINISHED and row.fields.get("limit") in limits]
    if len({row.data for row in whole}) > 1:  # runs on different images are no repetitions of each other
        whole, stopped = ([replace(r, fields=r.fields | {DATA: _data(r)}) for r in part] for part in (whole, stopped))
    return [*whole, *stopped], notes


def _data(row: Row) -> str:
    """The name of a data set and the beginning of its digest."""
    if row.data is None:
        return "unknown"
    return f"{row.data_name} {row.data[:8]}" if row.data_name else row.data[:12]


def _groups(rows: Sequence[Row], metric: str, by: str | None, notes: list[str]) -> list[Group]:
    if by is not None and not any(by in row.fields for row in rows):
        names = {name for row in rows for name in row.fields}
        raise UserError([f"--by {by}: unknown field{did_you_mean(by, names)}"])
    folded: dict[Setting, list[Row]] = {}
    for row in rows:
        own = {by: row.fields.get(by, MISSING)} if by else row.fields
        folded.setdefault(tuple(sorted(own.items())), []).append(row)
    labels = settings(folded, by)
    groups = []
    for key, members in folded.items():
        values: dict[tuple[str, ...], float] = {}
        stopped: dict[tuple[str, ...], Row] = {}
        finished = [row for row in members if row.status == FINISHED]
        for row in sorted(members, key=lambda row: row.id):  # of repeated runs, the latest counts
            rest = sorted(f"{n}={v}" for n, v in row.fields.items() if by and not f"{n}.".startswith(f"{by}."))
            run_key = (row.seed, *rest)
            if row.status == FINISHED:
                values[run_key] = row.metrics[metric]
            else:
                stopped[run_key] = row
        if repeated := len(finished) - len(values):
            notes.append(f"{labels[key]}: seeds run again: {repeated}; the latest counts")
        notes += _unfinished(labels[key], values, stopped, "runs" if by else "seeds")
        failed = tuple(row for run_key, row in stopped.items() if run_key not in values)
        if values:
            groups.append(Group(labels[key], dict(key), tuple(finished), values, failed))
    return groups


def _unfinished(label: str, values: Collection[object], stopped: Mapping[tuple[str, ...], Row], what: str) -> list[str]:
    """Sentences about runs that did not finish, so that a mean over the others is not taken for one over all."""
    lost = {key: row for key, row in stopped.items() if key not in values}
    notes, total = [], len(values) + len(lost)
    for state, chosen in (
        ("failed", [row for row in lost.values() if row.status == "FAILED"]),
        ("not finished", [row for row in lost.values() if row.status != "FAILED"]),
    ):
        if chosen:
            each = "; ".join(f"seed {row.seed}: {unfinished_reason(row)}" for row in chosen[:MOST_NAMED])
            more = f"; {len(chosen) - MOST_NAMED} more" if len(chosen) > MOST_NAMED else ""
            notes.append(f"{label}: {len(chosen)} of {total} {what} {state} ({each}{more})")
    again = [row for key, row in stopped.items() if key in values and row.status == "FAILED"]
    if again:
        each = "; ".join(f"seed {row.seed}: {unfinished_reason(row)}" for row in again[:MOST_NAMED])
        notes.append(f"{label}: {len(again)} of {total} {what} failed at first and finished when run again ({each})")
    return notes


def unfinished_reason(row: Row) -> str:
    """Returns in a few words why a run has not finished: its error, or that it is running or was interrupted."""
    if row.status != "FAILED":
        return "running, or interrupted"
    first = row.error.partition("\n")[0] or "FAILED"
    return first if len(first) <= MOST_LETTERS else f"{first[: MOST_LETTERS - 3]}..."


def _chosen(groups: Sequence[Group], baseline: str | None) -> Group:
    if baseline is None:  # against a single seed, nothing could be tested
        return next((group for group in groups if math.isfinite(group.summary[2])), groups[0])
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
    needed = seeds_needed(one.mean, one.deviation, one.paired, comparisons, one.overlap)
    return max(1, needed - one.n) if needed else None
