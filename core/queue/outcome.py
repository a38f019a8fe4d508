"""What became of an entry: its run on record, and the metric that says how good it is."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from datetime import datetime, timedelta

from core.common.errors import UserError
from core.common.text import duration
from core.compare.table import format_value, in_percent
from core.queue.entries import TIME, Entry
from core.record.ids import begun
from core.record.run import RECORD, RecordedRun, read_record
from core.record.summary import read_summary

_SHOWN = ("test/accuracy", "test/map")  # then the metric that the run monitors
_SLACK = timedelta(hours=1)  # by which the clocks of two machines may differ


def run_of(entry: Entry) -> str:
    """The id of the run that an entry has begun, of several seeds or folds that of their parent; empty without one."""
    if entry.words[1:2] == ["resume"] and len(entry.words) > 2:
        return entry.words[2]
    if entry.run or not entry.starts:
        return entry.run
    first = (datetime.strptime(entry.added, TIME) - _SLACK).strftime("%Y%m%d-%H%M%S").split("-")
    found = ""
    for run in RecordedRun.of_experiment(entry.name):  # the latest first
        if list(begun(run.id)[:2]) < first:
            break
        with suppress(UserError):  # a damaged record is another command's to report
            record = read_record(run.folder / "artifacts" / RECORD)
            if record["facts"].get("invocation") == entry.invocation:
                found = record.get("parent") or run.id
    return found


def metric_of(run_id: str) -> str:
    """The main metric of a run that has ended, as text; empty if there is none."""
    try:
        run = RecordedRun.load(run_id)
        metrics = (read_summary(run) or {}).get("metrics", {})
        names = [*_SHOWN, str(run.record["declaration"].get("monitor"))]
    except (UserError, OSError, KeyError):
        return ""
    found = next((name for name in names if name in metrics), None)
    if found is None:
        return ""
    return f"{found} {format_value(found, metrics[found])}{' %' if in_percent(found) else ''}"


def is_finished(run_id: str) -> bool:
    """Whether a run has finished."""
    try:
        return RecordedRun.load(run_id).status == "FINISHED"
    except (UserError, OSError):
        return False


def ended(entry: Entry) -> str:
    """One line about an entry whose run has ended."""
    took = duration(_seconds(entry.ended) - _seconds(entry.started)) if entry.started and entry.ended else ""
    facts = [metric_of(entry.run) if entry.run else "", entry.run, took]
    details = ", ".join(fact for fact in facts if fact)
    if entry.state == "finished":
        return f"{entry.number} finished: {details}"
    if entry.state == "failed":
        again = f"labbook queue retry {entry.number}"
        return f"{entry.number} failed: {entry.why} ({details}); log: {entry.log}; to run it again: {again}"
    return f"{entry.number} {entry.state}: {entry.why}"


def last_line(entry: Entry) -> str:
    """The last line that an entry's runs printed, which is the reason of most failures."""
    try:
        with entry.log.open(errors="replace") as file:
            lines = deque((line.strip() for line in file if line.strip()), maxlen=1)
    except OSError:
        return ""
    return lines[0][:300] if lines else ""


def _seconds(text: str) -> float:
    return time.mktime(time.strptime(text, TIME))
