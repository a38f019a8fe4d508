"""Follower: sends one run to a tracker. It holds the lock of the run, its progress, and the next batch."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from core.common.files import sync
from core.record.journal import ENDED, FILE, Journal
from core.tracking.cursor import SOURCES, SYSTEM, Record, entries, last_event, load, lock_of, save, waiting
from core.tracking.tracker import Deleted, Missing, Tracker, Waits
from core.tracking.upload import Batch, Sent, gather, replay, send


class Follower:
    """Sends one run, a batch at a time, while it holds the run's lock."""

    def __init__(self, folder: Path, name: str, place: str):
        """name: of the tracker.  place: where it keeps its runs."""
        self.folder = folder
        self.name = name
        self.record = Record(place)
        self.saw_end = False  # the final status has been sent
        self.deleted = False  # the run was deleted by a user
        self._lock = FileLock(folder / lock_of(name))
        self._open = False
        self._pending: dict[str, Batch] = {}  # gathered but not sent yet
        self._sent: dict[str, Sent] = {}
        self._system: Journal | None = None
        self._run: dict[str, Any] = {}  # the last "run" event, which contains the pid of the trainer

    def hold(self) -> bool:
        """Try to acquire the lock, which another mirror may hold. Returns whether this process holds it."""
        if not self._lock.is_locked:
            try:
                self._lock.acquire(timeout=0)
            except (Timeout, OSError):
                return False
        return True

    def let_go(self, tracker: Tracker) -> None:
        """Release the lock: nothing more is to be sent."""
        if self._open:
            self._keep(tracker.let_go(self.record))
        self._lock.release()

    @property
    def blocked(self) -> bool:
        """Whether the run is waiting for another mirror, its parent run, or a response."""
        return not self._open and not self.deleted

    def advance(self, tracker: Tracker) -> bool:
        """Send one batch. Returns False if there is none. Raises what the tracker raises; try again later."""
        if self.deleted:
            return False
        try:
            return self._send_next(tracker) if self._open else self._begin(tracker)
        except Deleted as reason:
            self.deleted = True
            self._keep(replace(self.record, problem=str(reason), deleted=True))
            return False
        except Missing:
            self._restart()
            return True

    def try_to_finish(self, tracker: Tracker, stay: bool) -> bool:
        """Returns whether the mirror is done with this run, once no more runs are announced.

        If its trainer has died, the run becomes KILLED. If its trainer is alive, the mirror is done unless `stay`.
        """
        if self.deleted or (self._open and self.record.status in ENDED):
            return True
        if self.blocked:
            return False
        if _alive(self._run):
            return not stay
        if waiting(self.folder, self.record):  # entries that were written after the last batch was gathered
            return False
        events = [last_event(self.folder, file) for file in (FILE, SYSTEM)]
        try:
            tracker.status(self.record, "KILLED", max(event["time"] for event in events if event))
        except Missing:
            self._restart()
            return False
        self._keep(replace(tracker.kept(self.record), status="KILLED"))
        return True

    def report_problem(self, problem: str) -> None:
        """Record why this run is not being sent, for the output of `labbook sync`."""
        problem = (problem.splitlines() or [""])[0]  # messages of databases continue with the SQL statement
        if self._lock.is_locked and problem != self.record.problem:
            with contextlib.suppress(OSError):
                self._keep(replace(self.record, problem=problem))

    def sample(self, values: Mapping[str, float]) -> None:
        """Add system metrics to the run unless it has ended."""
        if not self._lock.is_locked or self.record.status in ENDED or _ended(self.folder):
            return
        if self._system is None:
            self._system = Journal(self.folder, SYSTEM)
            self._samples = sum(1 for _ in entries(self.folder, SYSTEM, 0))
        self._system.metrics(self._samples, values)
        self._samples += 1

    def _begin(self, tracker: Tracker) -> bool:
        """Find or create the run. Returns False if the journal has no "run" event, or the tracker has to wait."""
        event = next((event for _, event in entries(self.folder, "journal.jsonl", 0) if event["event"] == "run"), None)
        if event is None:
            return False
        earlier = load(self.folder, self.name)
        same_store = earlier is not None and earlier.tracking_uri == self.record.tracking_uri
        record = earlier if earlier is not None and same_store else Record(self.record.tracking_uri)
        self.record = record
        if not record.run_id:
            self._keep(record)  # from here on, the run may exist, and another mirror has to search for it
        try:
            record = tracker.open(self.folder, event, record, seek=earlier is not None)
        except Waits as reason:
            self.report_problem(str(reason))
            return False
        if any(record.offset(file) > _size(self.folder / file) for file in SOURCES):
            raise Missing  # an earlier state of the journal was restored from a copy
        if record != self.record or record.deleted:  # deleted, and restored since
            self._keep(replace(record, problem="" if record.deleted else record.problem, deleted=False))
        self._sent = {file: Sent() for file in SOURCES}
        self._pending = {}
        self._run = event
        for file in SOURCES:
            self._run = replay(self.folder, file, self.record.offset(file), self._sent[file]) or self._run
        self._open = True
        return True

    def _send_next(self, tracker: Tracker) -> bool:
        for file in SOURCES:
            start = self.record.offset(file)
            batch = self._pending.get(file) or gather(self.folder, file, start, self._sent[file])
            if batch is None:
                continue
            self._pending[file] = batch
            # what a power failure takes from the journal is trained again with other times: no tracker must have it
            sync(self.folder / file)
            try:
                record = send(tracker, self.folder, self.record, batch)
            except Exception as error:
                if tracker.is_permanent(error):
                    tracker.check(self.record)
                raise
            del self._pending[file]
            if batch.event and batch.event["event"] == "run":
                self._run = batch.event
            self._keep(record)
            return True
        return False

    def _restart(self) -> None:
        self._keep(Record(self.record.tracking_uri))
        self._open = False

    def _keep(self, record: Record) -> None:
        save(self.folder, record, self.name)
        if record.status in ENDED and self.record.status not in ENDED:
            self.saw_end = True
            if self._system is not None:
                self._system.close(None)  # a status would be another line to send after the end
                self._system = None
        self.record = record


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _alive(run: dict[str, Any]) -> bool:
    """Whether the process that wrote this "run" event is running on this machine."""
    try:
        process = psutil.Process(run["pid"])
        created: float = process.create_time() * 1000
        return bool(created <= run["time"] + 1000 and process.status() != psutil.STATUS_ZOMBIE)
    except (KeyError, TypeError, psutil.Error):
        return False


def _ended(folder: Path) -> bool:
    last = last_event(folder)
    return last is not None and last["event"] == "status" and last["value"] in ENDED
