"""Runs on record as a list, as JSON objects and as a pandas DataFrame; thousands of runs per second, without torch."""

from __future__ import annotations

import ast
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from core.common import paths
from core.common.errors import UserError
from core.common.text import suggestion
from core.compare.runs import declared_fields, summary_of
from core.record import journal, lock
from core.record.ids import begun, named_in
from core.record.labels import Labels, labels
from core.record.run import COMBINED, IMPORTED, PAUSED, RECORD, RecordedRun, read_record

if TYPE_CHECKING:
    import pandas as pd

INTERRUPTED = "INTERRUPTED"  # RUNNING in the journal, but no process trains the run
WAITING = "PAUSED"  # KILLED in the journal: a trial that its search has paused
STATUSES = ("RUNNING", INTERRUPTED, WAITING, *journal.ENDED)
_KINDS = ("seeds", "folds", "study", IMPORTED, COMBINED)
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


@dataclass(frozen=True)
class Wanted:
    """Which runs are asked for; what is empty or None asks for all.

    experiments: names.  tags: of the user, name -> text, or None for any text.  since: when they began.  archived:
    whether archived runs are listed, too.
    """

    experiments: Sequence[str] = ()
    variant: str | None = None
    statuses: Sequence[str] = ()
    tags: Mapping[str, str | None] | None = None
    since: datetime | None = None
    archived: bool = False

    def begins(self, run_id: str) -> bool:
        """Whether the id allows the run; of most runs, nothing else is read."""
        if self.experiments and named_in(run_id) not in self.experiments:
            return False
        return self.since is None or ((at := started(run_id)) is not None and at >= self.since)

    def has(self, own: Labels) -> bool:
        """Whether the labels allow the run."""
        shown = self.archived or not own.archived
        return shown and all(
            name in own.tags and text in (None, own.tags[name]) for name, text in (self.tags or {}).items()
        )


@dataclass(frozen=True)
class Listed:
    """A run on record.

    variant: base without one.  kind: run; seeds, folds or study for the parent of other runs; combined or imported.
    status: RUNNING, INTERRUPTED, PAUSED, FINISHED, FAILED or KILLED.  started: local time, ISO 8601.  seconds: of
    training.
    data: name of the data set.  params: dotted name -> declared value.  metrics: name -> last value.  The other fields
    are those of the record and of `Labels`.
    """

    run: str
    experiment: str
    variant: str
    kind: str
    status: str
    started: str | None
    seconds: float | None
    name: str
    note: str
    tags: Mapping[str, str]
    archived: bool
    parent: str | None
    trial: int | None
    data: str
    parameters: int | None
    params: Mapping[str, Any]
    metrics: Mapping[str, float]

    def as_object(self) -> dict[str, Any]:
        """The run as JSON; what is not finite is null."""
        numbers = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        return vars(self) | {"metrics": numbers}


def listed(wanted: Wanted, skipped: list[str] | None = None) -> Iterator[Listed]:
    """Yield runs, the latest first, reading no more of them than are taken.

    skipped: gets a line about each run that cannot be read. Raises UserError for an experiment without runs on record.
    """
    ids = _ids()
    known = {named_in(each) for each in ids} if wanted.experiments else set()
    if wrong := [name for name in wanted.experiments if name not in known]:
        raise UserError(f"{name}: no experiment with runs on record{suggestion(name, sorted(known))}" for name in wrong)
    for run_id in filter(wanted.begins, ids):
        run = RecordedRun(paths.runs() / run_id)
        try:
            own = labels(run.folder)
            # a process that was killed early leaves a folder without a record
            if not wanted.has(own) or not (run.folder / "artifacts" / RECORD).exists():
                continue
            found = _listed(run, own)
        except UserError as damage:
            (skipped if skipped is not None else []).append(f"{run_id}: {damage}")
        except (KeyError, TypeError, ValueError, OSError) as error:  # one damaged run must not hide all others
            reason = f"{run_id}: its record is damaged ({type(error).__name__}: {error})"
            (skipped if skipped is not None else []).append(reason)
        else:
            if wanted.variant in (None, found.variant) and (not wanted.statuses or found.status in wanted.statuses):
                yield found


def listed_run(run: RecordedRun) -> Listed:
    """One run. Raises UserError if its record is damaged."""
    try:
        return _listed(run, labels(run.folder))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError([f"{run.id}: its record is damaged ({type(error).__name__}: {error})"]) from None


def runs_frame(*experiments: str, archived: bool = False) -> pd.DataFrame:
    """Returns the runs on record as a pandas DataFrame, a row for each run, the latest first, indexed by their ids.

    Columns are the fields of `Listed`; declared values are params.NAME, metrics are metrics.NAME, and tags are
    tags.NAME, as in `mlflow.search_runs`. `started` is a time. Runs that cannot be read are left out.

    experiments: their names; without any, all.  archived: whether archived runs are included. Raises UserError for an
    experiment without runs on record.
    """
    return frame(listed(Wanted(experiments, archived=archived)))


def frame(runs: Iterable[Listed]) -> pd.DataFrame:
    """Returns runs as a pandas DataFrame; see `runs_frame`."""
    import pandas as pd

    rows = []
    for run in runs:
        own = {name: value for name, value in vars(run).items() if name not in ("tags", "params", "metrics")}
        for group in ("tags", "params", "metrics"):
            own |= {f"{group}.{name}": value for name, value in getattr(run, group).items()}
        rows.append(own)
    plain = [name for name in Listed.__dataclass_fields__ if name not in ("tags", "params", "metrics")]
    found = pd.DataFrame(rows, columns=list(dict.fromkeys([*plain, *(name for row in rows for name in row)])))
    found["started"] = pd.to_datetime(found["started"])
    return found.set_index("run")


def started(run_id: str) -> datetime | None:
    """The local time in a run id; None if it has none."""
    try:
        return datetime.strptime("".join(begun(run_id)[:2]), "%Y%m%d%H%M%S")
    except ValueError:
        return None


def since(text: str) -> datetime:
    """The time that a text means: 2026-11-30, 2026-11-30T12:00, or 7d, 12h, 30m ago. Raises UserError."""
    if ago := re.fullmatch(r"(\d{1,6})([dhm])", text):
        return datetime.now() - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        return datetime.fromisoformat(text).astimezone().replace(tzinfo=None)
    except ValueError:
        raise UserError([f"--since {text}: should be a date (2026-11-30), or a time ago (7d, 12h, 30m)"]) from None


def _ids() -> list[str]:
    """Ids of the runs that have a record, the latest first."""
    try:
        names = os.listdir(paths.runs())
    except FileNotFoundError:
        return []
    return sorted(names, key=begun, reverse=True)


def _listed(run: RecordedRun, own: Labels) -> Listed:
    record = read_record(run.folder / "artifacts" / RECORD)
    summary, run_id = summary_of(run), run.id
    status, metrics = summary["status"], dict(summary["metrics"])
    if status == "RUNNING":
        status, metrics = INTERRUPTED if _is_left(run) else status, run.metrics
    elif status == "KILLED" and record.get("trial") is not None and run.tags.get(PAUSED) == "true":
        status = WAITING
    at, facts = started(run_id), record["facts"]
    kind = next((name for name in _KINDS if name in record), "run")
    return Listed(
        run_id,
        record["experiment"],
        record["variant"] or "base",
        kind,
        status,
        at.isoformat() if at else None,
        metrics.pop("seconds", None),
        own.name,
        own.note,
        own.tags,
        own.archived,
        record["parent"],
        record.get("trial"),
        record["data"].get("name", "") if "data" in record else "",
        int(facts["parameters"]) if "parameters" in facts else None,
        {name: _value(text) for name, text in _declared(run).items()},
        metrics,
    )


def _declared(run: RecordedRun) -> Mapping[str, str]:
    try:
        return declared_fields(run.folder)
    except StopIteration:  # the journal of an old version, or of an imported run
        return {}


def _is_left(run: RecordedRun) -> bool:
    """Whether no process trains a run that has not ended."""
    try:
        return lock.is_free(run.folder)
    except OSError:  # a folder that cannot be written
        return False


@cache
def _value(text: str) -> Any:
    """The value that was written as this text; few differ among thousands of runs."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
