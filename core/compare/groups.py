"""Group runs that differ only in the seed, or the fold, into settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from core.common.errors import UserError
from core.common.statistics import mean_and_interval
from core.common.text import did_you_mean
from core.compare.images import Scores
from core.compare.labels import MISSING, Setting, settings
from core.compare.runs import FINISHED, FOLD, Row
from core.metrics.names import step_between
from core.record.ids import begun

DATA = "data.images"  # the field that tells apart the data sets of a comparison, in addition to the declared ones
MOST_NAMED, MOST_LETTERS = 5, 120  # failed seeds that are named, and letters of the message about each


@dataclass(frozen=True)
class Group:
    """Runs of one setting.

    fields: declared values that all of its runs share.  rows: its finished runs.  values: key of a run -> its metric;
    the key is the seed, with its fold, and, with `by`, all other fields.  failed: the runs of keys without a value.
    counted: key -> the run whose value it is.  scores: key -> its score on each image, float64 [N]; empty unless images
    are compared.  beside: name of another metric -> {key: its value}, for those that all runs have.
    """

    label: str
    fields: Mapping[str, str]
    rows: tuple[Row, ...]
    values: Mapping[tuple[str, ...], float]
    failed: tuple[Row, ...] = ()
    counted: Mapping[tuple[str, ...], Row] = field(default_factory=dict)
    scores: Mapping[tuple[str, ...], np.ndarray] = field(default_factory=dict)
    beside: Mapping[str, Mapping[tuple[str, ...], float]] = field(default_factory=dict)

    def scored(self, scores: Scores) -> Group:
        """The group with its values computed from scores, of its weights on the images that all runs answered."""
        own = {key: scores.values[row.id] for key, row in self.counted.items()}
        beside = {n: {k: of[row.id] for k, row in self.counted.items()} for n, of in scores.others.items()}
        return replace(self, values={key: float(each.mean()) for key, each in own.items()}, scores=own, beside=beside)

    def measured(self, names: Sequence[str]) -> Group:
        """The group with other metrics beside its own, as its runs recorded them. names: of the metrics."""
        beside = {n.rpartition("/")[2]: {k: row.metrics[n] for k, row in self.counted.items()} for n in names}
        return replace(self, beside=beside)

    @property
    def first(self) -> str:
        """The id of its first run."""
        return min((row.id for row in self.rows), key=begun)

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

    def resolution(self, metric: str) -> float:
        """The step between values of a metric; 0 if that is unknown."""
        images = [row.images.get(metric.partition("/")[0], 0) for row in self.counted.values()]
        return step_between(metric, min(images, default=0))

    def average(self, metric: str) -> float:
        """Returns the mean of another metric over the runs that have it; NaN if none has."""
        values = [row.metrics[metric] for row in self.rows if metric in row.metrics]
        return float(np.mean(values)) if values else float("nan")


def without(names: Sequence[str], rows: Sequence[Row]) -> Sequence[Row]:
    """Rows without these fields and the fields of their parts. Raises UserError for an unknown field."""
    known = {name for row in rows for name in row.fields}
    for name in names:
        if name not in known:
            raise UserError([f"--ignore {name}: unknown field{did_you_mean(name, known)}"])
    gone = {field for field in known if any(f"{field}.".startswith(f"{name}.") for name in names)}
    if not gone:
        return rows
    return [replace(row, fields={n: value for n, value in row.fields.items() if n not in gone}) for row in rows]


def comparable(rows: Sequence[Row], metric: str, anyway: bool) -> tuple[list[Row], list[str]]:
    """Returns (finished runs that are comparable, followed by runs of the same kind that did not finish; notes).
    anyway: compare even if the data differ. Raises UserError if there are none, or if they used different data."""
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


def grouped(rows: Sequence[Row], metric: str, by: str | None, notes: list[str]) -> list[Group]:
    """Group runs into settings, or by a field alone. notes: sentences about runs that do not count are appended. Raises
    UserError for an unknown field."""
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
        counted: dict[tuple[str, ...], Row] = {}
        stopped: dict[tuple[str, ...], Row] = {}
        finished = [row for row in members if row.status == FINISHED]
        for row in sorted(members, key=lambda row: row.id):  # of repeated runs, the latest counts
            rest = sorted(f"{n}={v}" for n, v in row.fields.items() if by and not f"{n}.".startswith(f"{by}."))
            run_key = (row.seed, *rest)
            if row.status == FINISHED:
                counted[run_key] = row
            else:
                stopped[run_key] = row
        values = {run_key: row.metrics[metric] for run_key, row in counted.items()}
        if repeated := len(finished) - len(values):
            notes.append(f"{labels[key]}: seeds run again: {repeated}; the latest counts")
        notes += _unfinished(labels[key], values, stopped, "runs" if by else "seeds")
        failed = tuple(row for run_key, row in stopped.items() if run_key not in values)
        if values:
            groups.append(Group(labels[key], dict(key), tuple(finished), values, failed, counted))
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
