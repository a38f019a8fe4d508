"""The part of the MLflow mirror that the trainer uses."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from core.common import paths
from core.common.text import public
from core.record import journal
from core.tracking import cursor

_ROOT = Path(__file__).resolve().parents[2]
_GRACE = 5.0  # s to wait for a mirror that was asked to stop


def tracking_uri() -> str:
    """$MLFLOW_TRACKING_URI, or the database that `mlflow ui` opens when it is typed in the home folder."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or default_uri()
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri or path.startswith("/") else f"sqlite:///{Path(path).absolute()}"


def default_uri() -> str:
    """The database in the home folder."""
    return f"sqlite:///{paths.home()}/mlflow.db"


class Follows(Protocol):
    """A mirror, or a substitute for the mirror of another process, which is notified of new runs."""

    def follow(self, folder: Path) -> None: ...


class Mirror:
    """The mirror process of this invocation. No method raises because MLflow or the process fails."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._told_all = True

    def start(self) -> None:
        """Start the process; it needs a second or two, which nobody waits for."""
        self._process = _launch(os.getpid(), patience=30.0)

    def follow(self, folder: Path) -> None:
        """Mirror this run from now on; the first one starts the process."""
        if self._process is None:
            self.start()
        self._tell(os.fsencode(folder.absolute()) + b"\n")

    def finish(self, timeout: float = 30.0) -> bool:
        """Wait up to `timeout` s until all is sent; whether it is. A mirror that needs longer is ended.

        Every run must have its status by now.
        """
        process = self._process
        if process is None:
            return self._told_all
        self._tell(b"\n")  # not only the end of stdin: a forked loader worker may hold the pipe open
        with contextlib.suppress(OSError):
            _stdin(process).close()
        return _wait(process, timeout) == 0 and self._told_all

    def _tell(self, line: bytes) -> None:
        written: int | None = 0
        if self._process is not None:
            with contextlib.suppress(OSError, ValueError):
                written = _stdin(self._process).write(line)  # all of it or, if the mirror does not read, nothing
        self._told_all = self._told_all and written == len(line)


@dataclass(frozen=True)
class Standing:
    """How much of one run is in MLflow."""

    run: str
    complete: bool  # everything that the journal holds is there, and the run's end
    waiting: int  # lines that are not there yet
    why: str  # why it is not complete; empty if it is
    refused: tuple[str, ...]  # what MLflow will never take, and why; the journal has it


def standing(folder: Path) -> Standing:
    """Read from the run's folder alone, without asking MLflow."""
    found = cursor.load(folder)
    if found is not None and found.tracking_uri != public(tracking_uri()):
        found = None
    waiting = cursor.waiting(folder, found)
    if held(folder):
        why = "another process is sending it"
    elif _is_empty(folder):
        why = "its journal has no run event"
    elif found is None or not found.run_id or waiting:
        why = (found.problem if found else "") or "not sent to this store yet"
    else:
        why = "" if found.status in journal.ENDED else found.problem or "the run is still running"
    return Standing(folder.name, not why, waiting, why, found.refused if found else ())


def sync(folders: Iterable[Path], patience: float = 30.0) -> list[Standing]:
    """Send missing entries to MLflow. Returns the state of each run. Runs that another mirror holds are skipped.

    Runs that MLflow no longer knows are sent again from the beginning. Gives up once MLflow has not answered for
    `patience` s. A run without an end whose trainer has died becomes KILLED.
    """
    runs = [folder.absolute() for folder in folders]
    to_send = [folder for folder in runs if not held(folder) and not _is_empty(folder)]
    process = _launch(0, patience) if to_send else None
    if process is not None:
        os.set_blocking(_stdin(process).fileno(), True)
        with contextlib.suppress(OSError), _stdin(process) as stdin:
            for folder in to_send:
                stdin.write(os.fsencode(folder) + b"\n")
        process.wait()
    return [standing(folder) for folder in runs]


def held(folder: Path) -> bool:
    """Whether a running mirror holds this run."""
    from filelock import FileLock, Timeout

    if not (folder / cursor.LOCK).exists():
        return False
    try:
        with FileLock(folder / cursor.LOCK).acquire(timeout=0):
            return False
    except Timeout:
        return True


def run_url(folder: Path) -> str | None:
    """The fragment of the UI's address that shows the run's experiment as curves; None while it is not mirrored."""
    found = cursor.load(folder)
    if not found or not found.run_id:
        return None
    # the workflow: a browser that is new to MLflow shows the menus of generative AI
    return f"#/experiments/{found.experiment_id}/runs?compareRunsMode=CHART&workflowType=machine_learning"


def _launch(parent: int, patience: float) -> subprocess.Popen[bytes] | None:
    """The mirror's process with a raw, non-blocking stdin; None if it cannot be started."""
    try:
        log = paths.runs().parent / "mirror.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "core.tracking.process", str(parent), str(patience)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                bufsize=0,
                cwd=_ROOT,  # `-m` looks here first, and not at a folder named core where the command was typed
                env=_environment(),
                start_new_session=True,  # Ctrl-C in the terminal is for the trainer
            )
        os.set_blocking(_stdin(process).fileno(), False)
        return process
    except OSError:
        return None


def _environment() -> dict[str, str]:
    patient = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}  # the mirror tries again
    search = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    return (
        patient
        | os.environ
        | {
            "LABBOOK_HOME": str(paths.home()),
            "MLFLOW_TRACKING_URI": tracking_uri(),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "PYTHONPATH": os.pathsep.join(path for path in search if path),
        }
    )


def _stdin(process: subprocess.Popen[bytes]) -> Any:
    return process.stdin


def _wait(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    """The exit status; None if the process had to be ended."""
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
    """Whether the journal has no event "run", without which no run can be created in MLflow."""
    return not any(event["event"] == "run" for _, event in cursor.entries(folder, journal.FILE, 0))
