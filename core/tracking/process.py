"""The mirror process: python -m core.tracking.process NAME PARENT PATIENCE, with the folder of a run per line on stdin.

An empty line, the end of stdin, or the death of the process PARENT means that no more runs follow. The mirror then
exits once the tracker NAME has every run, or if it does not respond for PATIENCE seconds. If PARENT is 0, as in
`labbook sync`, no process is watched. The exit status is 0 if everything was sent.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import re
import resource
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

if __name__ == "__main__":
    os.nice(10)  # before the imports, which take most of the CPU time

from core.common import paths
from core.common.text import printable, public
from core.record.journal import ENDED
from core.tracking.address import public_uri, tracking_uri
from core.tracking.destinations import DESTINATIONS, MLFLOW, Destination
from core.tracking.follower import Follower
from core.tracking.tracker import Tracker

_TICK = 0.25  # s between two reads of the journals
_SAMPLE_FIRST, _SAMPLE_EVERY = 2.0, 10.0
_BACKOFF_FIRST, _BACKOFF_MOST = 0.5, 15.0


@dataclass
class Pace:
    """Pauses between retries, common to all runs: if the tracker fails for one of them, it probably fails for all."""

    title: str  # of the tracker
    pause: float = 0.0
    until: float = 0.0
    last_good: float = field(default_factory=time.monotonic)
    complaint: str = ""
    hopeless: bool = False  # waiting does not help

    def good(self) -> None:
        if self.complaint:
            say(f"{self.title} responds again")
        self.pause, self.until, self.complaint, self.last_good = 0.0, 0.0, "", time.monotonic()
        self.hopeless = False

    def failed(self, error: Exception, about: str, hopeless: bool) -> str:
        self.pause = min(_BACKOFF_MOST, self.pause * 2 or _BACKOFF_FIRST)
        self.until = time.monotonic() + self.pause
        complaint = _reason(error)[:1000]  # cut last: half a URI would not be recognized
        if complaint != self.complaint:  # a long outage is logged once
            say(f"{about}: {complaint}; retrying")
        self.complaint, self.hopeless = complaint, hopeless
        return complaint


def _reason(error: Exception) -> str:
    """One line about a failure of a tracker. MLflow's message for a server that cannot be reached names every layer of
    the connection, of which only the last says why."""
    text = str(error).replace(tracking_uri(), public_uri())
    if "Max retries exceeded" in text and (last := re.search(r": ([^:]+?)[\"')]*$", text)):
        open_brackets = last[1].count("(") - last[1].count(")")
        return public(f"no connection to {public_uri()}: {last[1]}{')' * open_brackets}")
    return public(f"{type(error).__name__}: {text}")


@dataclass
class Mirror:
    """Mirrors the runs of one invocation. parent: process id of the trainer, or 0.  patience: in seconds."""

    to: Destination
    parent: int
    patience: float
    following: list[Follower] = field(default_factory=list)
    tracker: Tracker | None = None
    closed_at: float = 0.0  # time at which the last run was announced; 0 before
    orphan: bool = False  # whether the trainer has died
    complete: bool = True

    def __post_init__(self) -> None:
        self.pace = Pace(self.to.title)

    def take(self, lines: list[str]) -> None:
        """Follow the folders that were announced. An empty line means that no more follow."""
        self.following += [Follower(Path(line), self.to.name, self.to.place()) for line in lines if line]
        self.orphan = self.parent != 0 and os.getppid() != self.parent
        if not self.closed_at and ("" in lines or self.orphan):
            self.closed_at = time.monotonic()

    def send(self) -> bool:
        """Send one batch of every run. Returns whether there was any."""
        if time.monotonic() < self.pace.until:
            return False
        sent = False
        for run in [run for run in self.following if run.hold()]:
            try:
                self.tracker = self.tracker or self.to.connect()
                sent = self._send(run) or sent
            except Exception as error:  # any error of one run must not affect the others
                run.report_problem(self.pace.failed(error, run.folder.name, self.to.is_hopeless(error)))
                self.following.sort(key=lambda each: each is run)  # next time, the others are sent first
                return False
        return sent

    def _send(self, run: Follower) -> bool:
        assert self.tracker is not None
        if run.advance(self.tracker):
            self.pace.good()
            return True
        if run.saw_end or (self.closed_at and run.try_to_finish(self.tracker, stay=self.orphan)):
            self.pace.good()
            run.let_go(self.tracker)
            self.following.remove(run)
            self.complete = self.complete and run.record.status in ENDED and not run.deleted
        return False

    def exit_status(self) -> int | None:
        """Returns the exit status if the process should exit, otherwise None."""
        if not self.closed_at:
            return None
        if not self.following:
            return 0 if self.complete else 1
        stuck = self.pace.complaint or any(run.blocked for run in self.following)
        waited = time.monotonic() - max(self.closed_at, self.pace.last_good)
        if stuck and (self.pace.hopeless or waited > self.patience):
            say(f"stopped: {self.pace.complaint or 'timed out'}; to send the rest: {self.to.sync}")
            return 1
        return None


@dataclass
class Load:
    """System metrics, added periodically to the runs that are still running."""

    monitors: list[Any]
    due: float = field(default_factory=lambda: time.monotonic() + _SAMPLE_FIRST)

    def sample(self, runs: list[Follower]) -> None:
        if not self.monitors or time.monotonic() < self.due:
            return
        self.due = time.monotonic() + _SAMPLE_EVERY
        try:
            from core.tracking.system import sample

            values = sample(self.monitors)
            for run in runs:
                run.sample(values)
        except Exception as error:
            say(f"system metrics stopped: {type(error).__name__}: {error}")
            self.monitors = []


def main(name: str, parent: int, patience: float) -> int:
    """Mirror runs to a tracker until all are sent. Returns the exit status."""
    announced = _listen()
    _allow_many_files()
    os.chdir(paths.home())  # with a database, MLflow stores artifacts in mlruns/ of the current folder
    mirror = Mirror(DESTINATIONS[name], parent, patience)
    load = Load(_monitors() if parent and mirror.to == MLFLOW else [])
    busy = False
    while (status := mirror.exit_status()) is None:
        mirror.take(_drain(announced, 0 if busy else _TICK))
        load.sample(mirror.following)
        busy = mirror.send()
    if mirror.tracker:
        mirror.tracker.close()
    return status


def _monitors() -> list[Any]:
    from core.tracking.system import monitors  # MLflow's

    return monitors()


def say(text: str) -> None:
    """Write a line to mlruns/mirror.log, which several mirrors share."""
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} [{os.getpid()}] {text}", flush=True)


class _Log(io.TextIOBase):
    """Standard output and error of this process, mlruns/mirror.log, without passwords and control characters."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable(public(text.replace(tracking_uri(), public_uri()))))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()


def _listen() -> queue.Queue[str]:
    """A queue of the lines of stdin, and "" at its end. A thread reads them, so that the trainer never has to wait."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        with io.FileIO(0, closefd=False) as stdin:  # unbuffered, because the lock of a buffer would block the exit
            for line in stdin:
                lines.put(os.fsdecode(line.rstrip(b"\n")))
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    return lines


def _drain(lines: queue.Queue[str], wait: float) -> list[str]:
    """The lines in the queue, after waiting up to `wait` seconds for the first one."""
    found: list[str] = []
    with contextlib.suppress(queue.Empty):
        found.append(lines.get(timeout=wait) if wait else lines.get_nowait())
        while True:
            found.append(lines.get_nowait())
    return found


def _allow_many_files() -> None:
    """Raise the limit of open files: each run holds one, and an outage may leave hundreds of runs to send."""
    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.stdout = sys.stderr = _Log(sys.stdout)
    exit_status = main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
    os._exit(exit_status)  # everything is on disk, and a regular exit with mlflow imported takes long
