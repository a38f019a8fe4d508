"""Alerts at the end of a run or search: a command that gets the facts as JSON on its standard input, or a URL to which
they are posted. A failed alert is one line, and changes nothing else."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from core.common.terminal import tell
from core.common.text import duration, without_paths
from core.record import journal

VARIABLE = "LABBOOK_NOTIFY"
TIMEOUT = 10.0  # s
_SHOWN = ("test/accuracy", "test/map", "val/accuracy")


class Alerts:
    """Notes the runs of an invocation and sends an alert for each that has no parent. to: None for no alerts."""

    def __init__(self, to: str | None):
        self._to = to or os.environ.get(VARIABLE)
        self._folders: dict[Path, None] = {}

    def follow(self, folder: Path) -> None:
        """Send an alert when this run has ended."""
        self._folders[folder] = None

    def send(self) -> None:
        """Send the alerts of all runs, which have ended. Prints a line for each that fails."""
        for folder in self._folders if self._to else ():
            try:
                found = facts(folder)
                if found["parent"] is None and self._to:
                    notify(self._to, found)
            except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
                reason = f"{type(error).__name__}: {without_paths(str(error))}"
                tell(f"the alert for {folder.name} was not sent: {reason}")


def facts(folder: Path) -> dict[str, Any]:
    """Returns what an alert says of a run: a line of text, and the values in it. Raises UserError if it is damaged.

    status: FINISHED, FAILED, or KILLED.  error: the last error, or None.  seconds: since the start, or the last resume.
    metrics: name -> last value, of those that are finite.  folder: absolute.
    """
    events = [event for _, event in journal.read(folder)]
    begun = [event for event in events if event["event"] == "run"][-1]
    status = next((event["value"] for event in reversed(events) if event["event"] == "status"), "RUNNING")
    tags = {name: text for event in events if event["event"] == "tags" for name, text in event["values"].items()}
    metrics = {name: points[max(points)] for name, points in journal.history(folder).items()}
    error = None if status == "FINISHED" else tags.get("error")
    seconds = (events[-1]["time"] - begun["time"]) / 1000
    values = [f"{name} {metrics[name]:.2%}" for name in _SHOWN if name in metrics][:1]
    return {
        "text": "; ".join([f"{folder.name} {status} after {duration(seconds)}", *values, *([error] if error else ())]),
        "run": folder.name,
        "experiment": begun["experiment"],
        "name": begun.get("name"),
        "parent": begun.get("parent"),
        "status": status,
        "error": error,
        "seconds": seconds,
        "metrics": {name: value for name, value in metrics.items() if abs(value) < float("inf")},
        "folder": str(folder.absolute()),
        "host": platform.node(),
    }


def notify(to: str, content: dict[str, Any]) -> None:
    """Post facts as JSON to a URL, or run a shell command with them on its standard input.

    Raises OSError or SubprocessError if it takes longer than TIMEOUT, or answers with an error.
    """
    data = json.dumps(content).encode()
    if is_url(to):
        request = urllib.request.Request(to, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT):
            return
    with subprocess.Popen(
        to, shell=True, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            process.communicate(data, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, to)


def is_url(to: str) -> bool:
    """Whether this is the URL, not the command, of an alert."""
    return re.match(r"https?://", to, re.IGNORECASE) is not None
