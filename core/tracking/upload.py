"""Send the entries of a journal to a tracker in batches; progress is saved after each complete batch."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.common.failpoints import failpoint
from core.record import journal
from core.tracking.cursor import Record, entries
from core.tracking.tracker import Point, Tracker

_MOST_METRICS = 1000  # in one batch; MLflow's limit of a call


class Sent:
    """The set of (metric, step) that were sent, in eight bytes each: only the first entry for each is sent."""

    def __init__(self) -> None:
        self._steps: dict[str, array[int]] = {}

    def first(self, name: str, step: int) -> bool:
        """Returns whether this is the first entry for the metric and step, and adds it."""
        steps = self._steps.setdefault(name, array("q"))
        at = len(steps) if not steps or step > steps[-1] else bisect_left(steps, step)
        if at < len(steps) and steps[at] == step:
            return False
        steps.insert(at, step)
        return True


@dataclass(frozen=True)
class Batch:
    """Entries of `file` up to byte `end`: either metrics, params and tags, or one event of another kind."""

    file: str
    end: int
    metrics: list[Point] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    event: dict[str, Any] | None = None
    refused: list[str] = field(default_factory=list)

    @property
    def trains(self) -> bool:
        """Whether the batch was written by a running run; artifacts and tags may also be added after its end."""
        trains = self.metrics or self.params or (self.event and self.event["event"] == "run")
        return self.file == journal.FILE and bool(trains)


def gather(folder: Path, file: str, start: int, sent: Sent) -> Batch | None:
    """Returns the next batch after byte `start`, or None without a complete line."""
    batch = Batch(file, start)
    for end, event in entries(folder, file, start):
        match event["event"]:
            case "metrics":
                for name, value in event["values"].items():
                    if not isinstance(value, int | float):
                        batch.refused.append(f"metric {name}: {value!r} is not a number")
                    elif sent.first(name, event["step"]):
                        batch.metrics.append(Point(name, float(value), event["time"], event["step"]))
            case "params":
                batch.params.update({name: text for name, text in event["values"].items() if name not in batch.params})
            case "tags":
                batch.tags.update(event["values"])
            case _ if batch.end > start:
                break  # the lines before it are sent first
            case _:
                return replace(batch, end=end, event=event)
        batch = replace(batch, end=end)
        if len(batch.metrics) >= _MOST_METRICS:
            break
    return batch if batch.end > start else None


def replay(folder: Path, file: str, end: int, sent: Sent) -> dict[str, Any] | None:
    """Add the metrics up to byte `end`, which earlier mirrors sent, to `sent`. Returns the last "run" event there."""
    run = None
    for offset, event in entries(folder, file, 0):
        if offset > end:
            break
        if event["event"] == "metrics":
            for name in event["values"]:
                sent.first(name, event["step"])
        elif event["event"] == "run":
            run = event
    return run


def send(tracker: Tracker, folder: Path, record: Record, batch: Batch) -> Record:
    """Send a batch. Returns the new record, which names the entries that were rejected; they are skipped.

    Raises what the tracker raises if the batch has to be sent again, and Deleted or Missing if the run does not accept
    entries any more.
    """
    failpoint("batch gathered")
    status = record.status
    if batch.trains and status in journal.ENDED:  # the run was resumed
        tracker.status(record, "RUNNING", 0)
        status = "RUNNING"
    refused = [
        *batch.refused,
        *(tracker.params(record, batch.params) if batch.params else ()),
        *(tracker.tags(record, batch.tags) if batch.tags else ()),
        *(tracker.metrics(record, batch.metrics) if batch.metrics else ()),
    ]
    if batch.event and batch.file == journal.FILE:
        refused += _send_event(tracker, folder, record, batch.event)
        status = batch.event["value"] if batch.event["event"] == "status" else status
    if refused:
        tracker.check(record)
    record = tracker.kept(record)
    failpoint("batch sent")
    record = record.at(batch.file, batch.end)
    return replace(record, status=status, refused=record.with_refused(refused), problem="")


def _send_event(tracker: Tracker, folder: Path, record: Record, event: dict[str, Any]) -> list[str]:
    match event["event"]:
        case "dataset":
            return tracker.dataset(record, event)
        case "artifact":
            return tracker.artifact(record, folder / "artifacts" / event["path"], event["path"])
        case "status":
            tracker.status(record, event["value"], event["time"])
        case "digest":
            pass  # of an artifact that is not complete yet
        case "run":
            pass  # the first "run" event created the run; a resumed run has several
        case kind:
            return [f"event {kind} at byte {event.get('end', '?')}: unknown event"]
    return []
