"""Follower: sends one run to MLflow. It holds the lock of the run, its progress, and the next batch."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout
from mlflow import MlflowClient

from core.common.files import sync
from core.record.journal import ENDED, Journal
from core.tracking import client as store
from core.tracking.cursor import LOCK, SOURCES, SYSTEM, Record, entries, last_event, load, save, waiting
from core.tracking.upload import Batch, Sent, gather, replay, send


class Follower:
    """Sends one run, a batch at a time, while it holds the run's lock."""

    def __init__(self, folder: Path, store_name: str):
        self.folder = folder
        self.record = Record(store_name)
        self.saw_end = False  # the final status has been sent
        self.deleted = False  # the run was deleted in MLflow
        self._lock = FileLock(folder / LOCK)
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

    def release(self) -> None:
        self._lock.release()

    @property
    def blocked(self) -> bool:
        """Whether the run is waiting for another mirror, its parent run, or a response."""
        return not self._open and not self.deleted

    def advance(self, client: MlflowClient) -> bool:
        """Send one batch. Returns False if there is none. Raises what MLflow raises; try again later."""
        if self.deleted:
            return False
        try:
            return self._send_next(client) if self._open else self._begin(client)
        except store.Deleted as reason:
            self.deleted = True
            self._keep(replace(self.record, problem=str(reason), deleted=True))
            return False
        except store.Missing:
            self._keep(Record(self.record.tracking_uri))
            self._open = False
            return True

    def try_to_finish(self, client: MlflowClient, stay: bool) -> bool:
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
        events = [last_event(self.folder, file) for file in SOURCES]
        client.set_terminated(self.record.run_id, "KILLED", max(event["time"] for event in events if event))
        self._keep(replace(self.record, status="KILLED"))
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

    def _begin(self, client: MlflowClient) -> bool:
        """Find or create the run in MLflow. Returns False if the journal has no "run" event, or the parent no run."""
        event = next((event for _, event in entries(self.folder, "journal.jsonl", 0) if event["event"] == "run"), None)
        if event is None:
            return False
        earlier = load(self.folder)
        same_store = earlier is not None and earlier.tracking_uri == self.record.tracking_uri
        record = earlier if earlier is not None and same_store else Record(self.record.tracking_uri)
        self.record = record
        if record.run_id:
            store.check_run(client, record.run_id)
            if record.deleted:  # and restored since
                self._keep(replace(record, problem="", deleted=False))
        else:
            parent, refused = self._parent(event)
            if parent is None and not refused and event.get("parent"):
                self.report_problem(f"waiting for its parent {event['parent']}")
                return False
            self._keep(record)  # from here on, the run may exist, and another mirror has to search for it
            experiment = store.experiment(client, event["experiment"], event.get("description") or "")
            found = store.find_run(client, experiment, event["id"]) if earlier else None
            run_id = found or store.create_run(client, experiment, event, parent)
            record = replace(record, experiment_id=experiment, run_id=run_id, view=store.VIEW)
            self._keep(replace(record, refused=record.with_refused(refused)))
        for file in SOURCES:
            if self.record.offset(file) > _size(self.folder / file):  # an earlier state was restored from a copy
                self._keep(self.record.at(file, 0))
        self._sent = {file: Sent() for file in SOURCES}
        self._pending = {}
        self._run = event
        for file in SOURCES:
            self._run = replay(self.folder, file, self.record.offset(file), self._sent[file]) or self._run
        self._open = True
        return True

    def _send_next(self, client: MlflowClient) -> bool:
        for file in SOURCES:
            start = self.record.offset(file)
            batch = self._pending.get(file) or gather(self.folder, file, start, self._sent[file])
            if batch is None:
                continue
            self._pending[file] = batch
            # what a power failure takes from the journal is trained again with other times: MLflow must not have it
            sync(self.folder / file)
            try:
                record = send(client, self.folder, self.record, batch)
            except Exception as error:
                if store.permanent(error):
                    store.check_run(client, self.record.run_id)
                raise
            del self._pending[file]
            if batch.event and batch.event["event"] == "run":
                self._run = batch.event
            self._keep(record)
            return True
        return False

    def _parent(self, event: dict[str, Any]) -> tuple[str | None, list[str]]:
        """(MLflow's id of the parent or None, notes). None without notes means that the parent is not in MLflow yet."""
        parent = event.get("parent")
        if not parent:
            return None, []
        folder = self.folder.parent / parent
        if not folder.is_dir():
            return None, [f"parent {parent}: unknown run"]
        above = load(folder)
        known = above is not None and above.tracking_uri == self.record.tracking_uri
        return (above.run_id or None if above and known else None), []

    def _keep(self, record: Record) -> None:
        save(self.folder, record)
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
