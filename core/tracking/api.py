"""The part of the mirrors that the trainer uses."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from core.common import paths
from core.common.errors import UserError
from core.common.terminal import tell
from core.record import journal
from core.tracking import cursor
from core.tracking.address import default_uri as default_uri
from core.tracking.address import public_uri as public_uri
from core.tracking.address import store_problem as store_problem
from core.tracking.address import tracking_uri as tracking_uri
from core.tracking.destinations import MLFLOW, Destination, chosen

_GRACE = 5.0  # s to wait for a mirror to stop after SIGTERM


class Follows(Protocol):
    """A mirror, or a substitute for the mirror of another process, which is notified of new runs."""

    def follow(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Followers:
    """Several that are notified of new runs, in this order."""

    each: tuple[Follows, ...]

    def follow(self, folder: Path) -> None:
        for one in self.each:
            one.follow(folder)


class NoMirror:
    """A mirror to which nothing is sent, because the caller sends the runs itself, or nobody does."""

    def follow(self, folder: Path) -> None:
        pass


class Mirror:
    """The mirror process of this invocation. Its methods do not raise if the tracker or the process fails."""

    def __init__(self, to: Destination = MLFLOW) -> None:
        self.to = to
        self._mistake: str | None = None  # known before the start: the process would only wait
        self._process: subprocess.Popen[bytes] | None = None
        self._all_announced = True

    def start(self) -> None:
        """Start the process, without waiting for it. If the tracker cannot get anything, print why instead."""
        self._mistake = self.to.problem()
        if self._mistake:
            tell(f"{self.to.title} does not get this run: {self._mistake}")
        else:
            self._process = _launch(self.to, os.getpid(), patience=30.0)

    def follow(self, folder: Path) -> None:
        """Mirror this run from now on. The process is started if necessary."""
        if self._process is None and not self._mistake:
            self.start()
        self._announce(os.fsencode(folder.absolute()) + b"\n")

    def finish(self, timeout: float = 30.0) -> bool:
        """Wait up to `timeout` seconds until everything is sent, then stop the process. Returns whether it was.

        All runs must have ended.
        """
        self.close()
        if self._process is None:
            return self._all_announced
        return _wait(self._process, timeout) == 0 and self._all_announced

    def close(self) -> None:
        """Announce that no more runs follow, without waiting."""
        if self._process is None or _stdin(self._process).closed:
            return
        self._announce(b"\n")  # not only the end of stdin: a forked loader worker may hold the pipe open
        with contextlib.suppress(OSError):
            _stdin(self._process).close()

    def _announce(self, line: bytes) -> None:
        written: int | None = 0
        if self._process is not None:
            with contextlib.suppress(OSError, ValueError):
                written = _stdin(self._process).write(line)  # writes nothing if the mirror does not read
        self._all_announced = self._all_announced and written == len(line)


class Mirrors:
    """The mirror processes of this invocation, one for each tracker.

    Raises UserError if the library of a tracker in `also` is not installed.
    """

    def __init__(self, mlflow: bool, also: Sequence[str]):
        self._each = [Mirror(to) for to in chosen(mlflow, also)]

    def follow(self, folder: Path) -> None:
        """Mirror this run from now on."""
        for mirror in self._each:
            mirror.follow(folder)

    def finish(self, timeout: float = 30.0) -> bool:
        """Wait up to `timeout` seconds until everything is sent. Returns whether it was. All runs must have ended."""
        for mirror in self._each:
            mirror.close()
        end = time.monotonic() + timeout
        finished = [mirror.finish(max(0.0, end - time.monotonic())) for mirror in self._each]
        return all(finished)


@dataclass(frozen=True)
class MirrorStatus:
    """How much of a run a tracker has.

    complete: the run has ended, and the tracker has its whole journal.  waiting: number of entries not sent yet.
    why: the reason why it is not complete; empty if it is.  refused: entries that were rejected, with the reason.
    deleted: whether a user deleted the run there.
    """

    run: str
    complete: bool
    waiting: int
    why: str
    refused: tuple[str, ...]
    deleted: bool = False


def mirror_status(folder: Path, to: Destination = MLFLOW) -> MirrorStatus:
    """Returns the state of a run from the files in its folder, without a call to the tracker."""
    found, wrong = _status(folder, to), to.problem()
    return replace(found, complete=False, why=wrong) if wrong else found


def _status(folder: Path, to: Destination) -> MirrorStatus:
    found = cursor.load(folder, to.name)
    if found is not None and found.tracking_uri != to.place():
        found = None
    waiting = cursor.waiting(folder, found)
    if held(folder, to.name):
        why = "another process is sending it"
    elif _is_empty(folder):
        why = "its journal has no run event"
    elif found is None or not found.run_id or waiting:
        why = (found.problem if found else "") or "not sent to this store yet"
    elif found.deleted:
        why = found.problem
    else:
        why = "" if found.status in journal.ENDED else found.problem or "the run is still running"
    deleted = found is not None and found.deleted
    return MirrorStatus(folder.name, not why, waiting, why, found.refused if found else (), deleted)


def sync(folders: Iterable[Path], patience: float = 30.0, to: Destination = MLFLOW) -> list[MirrorStatus]:
    """Send missing entries to a tracker. Returns the state of each run.

    Runs that another process is sending are skipped. Runs that were removed from the tracker are sent again from the
    beginning. Sending stops if it does not respond for `patience` seconds. A run without a final status becomes
    KILLED if its trainer has died. Raises UserError if the tracker cannot get anything.
    """
    if wrong := to.problem():
        raise UserError([wrong])
    runs = [folder.absolute() for folder in folders]
    to_send = [folder for folder in runs if not held(folder, to.name) and not _is_empty(folder)]
    process = _launch(to, 0, patience) if to_send else None
    if process is not None:
        os.set_blocking(_stdin(process).fileno(), True)
        with contextlib.suppress(OSError), _stdin(process) as stdin:
            for folder in to_send:
                stdin.write(os.fsencode(folder) + b"\n")
        process.wait()
    return [_status(folder, to) for folder in runs]


def held(folder: Path, tracker: str = cursor.MLFLOW) -> bool:
    """Whether a running mirror holds the lock of this run."""
    from filelock import FileLock, Timeout

    lock = folder / cursor.lock_of(tracker)
    if not lock.exists():
        return False
    try:
        with FileLock(lock).acquire(timeout=0):
            return False
    except Timeout:
        return True


def run_url(folder: Path) -> str | None:
    """Returns the URL fragment of MLflow's page with the curves of the run's experiment; None if not in MLflow yet."""
    found = cursor.load(folder)
    if not found or not found.run_id:
        return None
    # without a workflow type, a browser that opens MLflow for the first time shows the menus of generative AI
    page = f"#/experiments/{found.experiment_id}/runs?compareRunsMode=CHART&workflowType=machine_learning"
    return f"{page}&viewStateShareKey={found.view}" if found.view else page


def _launch(to: Destination, parent: int, patience: float) -> subprocess.Popen[bytes] | None:
    """Start the mirror process with an unbuffered, non-blocking stdin; None if it cannot be started."""
    try:
        log = paths.runs().parent / "mirror.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "core.tracking.process", to.name, str(parent), str(patience)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                bufsize=0,
                cwd=paths.ROOT,  # so that `-m` does not import another folder named core
                env=_environment(),
                start_new_session=True,  # Ctrl-C in the terminal must reach only the trainer
            )
        os.set_blocking(_stdin(process).fileno(), False)
        return process
    except OSError:
        return None


def _environment() -> dict[str, str]:
    # the mirror itself retries
    timeouts = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    return (
        timeouts
        | os.environ
        | {
            "LABBOOK_HOME": str(paths.home()),
            "MLFLOW_TRACKING_URI": tracking_uri(),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "PYTHONPATH": paths.python_path(),
        }
    )


def _stdin(process: subprocess.Popen[bytes]) -> Any:
    return process.stdin


def _wait(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    """The exit status; None if the process had to be terminated."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(timeout)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
        return None
    process.kill()
    process.wait()
    return None


def _is_empty(folder: Path) -> bool:
    """Whether the journal has no "run" event, without which no run can be created."""
    return not any(event["event"] == "run" for _, event in cursor.entries(folder, journal.FILE, 0))
