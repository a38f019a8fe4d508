"""One run on its way into MLflow: its lock, its record, and the next batch to send."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout
from mlflow import MlflowClient

from core.record.journal import ENDED, Journal
from core.tracking import client as store
from core.tracking.cursor import LOCK, SOURCES, SYSTEM, Record, entries, last_event, load, save, waiting
from core.tracking.upload import Batch, Sent, gather, replay, send


class Follower:
    """Sends one run, a batch at a time, while it holds the run's lock."""

    def __init__(self, folder: Path, store_name: str):
        self.folder = folder
        self.record = Record(store_name)
        self.saw_end = False  # the run has ended, so that nothing more will follow
        self.left_off = False  # deleted in MLflow
        self._lock = FileLock(folder / LOCK)
        self._open = False
        self._pending: dict[str, Batch] = {}  # gathered, and to be sent again if sending failed
        self._sent: dict[str, Sent] = {}
        self._system: Journal | None = None
        self._run: dict[str, Any] = {}  # the last event "run": it knows the trainer's pid

    def hold(self) -> bool:
        """Whether this process holds the run now; another mirror may still be sending it."""
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
        """Whether it waits for something besides its own journal: another mirror, its parent, an answer."""
        return not self._open and not self.left_off

    def advance(self, client: MlflowClient) -> bool:
        """Send one batch; False when there is none. Raises what MLflow raises: then try again later."""
        if self.left_off:
            return False
        try:
            return self._send_next(client) if self._open else self._begin(client)
        except store.Deleted as reason:
            self.left_off = True
            self.trouble(str(reason))
            return False
        except store.Missing:
            self._keep(Record(self.record.tracking_uri))
            self._open = False
            return True

    def settle(self, client: MlflowClient, stay: bool) -> bool:
        """Once nothing more will be announced: whether this run is done with. A dead trainer's run becomes KILLED.

        A run whose trainer lives is followed on if `stay`, or else left as it is.
        """
        if self.left_off or (self._open and self.record.status in ENDED):
            return True
        if self.blocked:
            return False
        if _alive(self._run):
            return not stay
        if waiting(self.folder, self.record):  # written between our last look and its death
            return False
        signs = [last_event(self.folder, file) for file in SOURCES]
        client.set_terminated(self.record.run_id, "KILLED", max(sign["time"] for sign in signs if sign))
        self._keep(replace(self.record, status="KILLED"))
        return True

    def trouble(self, problem: str) -> None:
        """Record why this run is not being sent, for `labbook sync`."""
        problem = (problem.splitlines() or [""])[0][:200]  # a database adds its statement
        if self._lock.is_locked and problem != self.record.problem:
            with contextlib.suppress(OSError):
                self._keep(replace(self.record, problem=problem))

    def sample(self, values: Mapping[str, float]) -> None:
        """Add the machine's load to the run, unless the run has ended."""
        if not self._lock.is_locked or self.record.status in ENDED or _ended(self.folder):
            return
        if self._system is None:
            self._system = Journal(self.folder, SYSTEM)
            self._samples = sum(1 for _ in entries(self.folder, SYSTEM, 0))
        self._system.metrics(self._samples, values)
        self._samples += 1

    def _begin(self, client: MlflowClient) -> bool:
        """Find or create the run in MLflow; False while the journal or the parent is not ready for it."""
        event = next((event for _, event in entries(self.folder, "journal.jsonl", 0) if event["event"] == "run"), None)
        if event is None:
            return False
        earlier = load(self.folder)
        same_store = earlier is not None and earlier.tracking_uri == self.record.tracking_uri
        record = earlier if earlier is not None and same_store else Record(self.record.tracking_uri)
        self.record = record
        if record.run_id:
            store.check_run(client, record.run_id)
        else:
            parent, refused = self._parent(event)
            if parent is None and not refused and event.get("parent"):
                self.trouble(f"waiting for its parent {event['parent']}")
                return False
            self._keep(record)  # from here on the run may exist: whoever comes after us has to look for it
            experiment = store.experiment(client, event["experiment"], event.get("description") or "")
            found = store.find_run(client, experiment, event["id"]) if earlier else None
            run_id = found or store.create_run(client, experiment, event, parent)
            self._keep(replace(record, experiment_id=experiment, run_id=run_id, refused=record.with_refused(refused)))
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
        """(MLflow's id of the parent or None, notes): None without a note while the parent is not in MLflow yet."""
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
                self._system.close(None)  # a status there would be one more line to send, after the end
                self._system = None
        self.record = record


def _alive(run: dict[str, Any]) -> bool:
    """Whether the process that wrote this event "run" is running on this machine."""
    try:
        process = psutil.Process(run["pid"])
        begun: float = process.create_time() * 1000
        return bool(begun <= run["time"] + 1000 and process.status() != psutil.STATUS_ZOMBIE)
    except (KeyError, TypeError, psutil.Error):
        return False


def _ended(folder: Path) -> bool:
    last = last_event(folder)
    return last is not None and last["event"] == "status" and last["value"] in ENDED
