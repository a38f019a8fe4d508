"""The run on local disk: an append-only log of events, the source of truth. MLflow is its mirror.

A run's folder is mlruns/runs/<run id>/ and holds

    journal.jsonl   one event a line, written by the trainer alone
    system.jsonl    the same format, written by the mirror: load of the machine
    artifacts/      files that the journal names
    mirror.json     how far the mirror has come

Events, each {"event": kind, "time": ms since 1970, ...}:

    run      id, experiment, name, description, parent (a run id or null), pid, host
    params   values: {dotted name: text}
    tags     values: {name: text}
    dataset  name, digest, source, context, profile: {..}
    metrics  step, values: {name: number}; the first entry for a (name, step) stands
    artifact path (relative to artifacts/)
    status   value: RUNNING | FINISHED | FAILED | KILLED
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.common.files import write_whole

FILE = "journal.jsonl"
_to_json = json.JSONEncoder(separators=(",", ":")).encode  # made once: json.dumps would make one for each line
ENDED = ("FINISHED", "FAILED", "KILLED")


class Journal:
    """The writer of one run's log. A line is whole on disk (in the page cache) when `write` returns."""

    def __init__(self, folder: Path, file: str = FILE):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        drop_torn_tail(folder / file)
        self._file = os.open(folder / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    @property
    def run_id(self) -> str:
        return self.folder.name

    def write(self, event: str, **fields: Any) -> None:
        """fields: those of the event; `time` among them where it is not now."""
        line = _to_json({"event": event, "time": time.time_ns() // 1_000_000, **fields})
        whole = line.encode() + b"\n"
        written = os.write(self._file, whole)
        if written != len(whole):
            # a full disk takes half a line: without it, the log still reads
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / FILE))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """NaN and infinities are kept: json's NaN, Infinity and -Infinity, which `read` takes back."""
        self.write("metrics", step=step, values=dict(values))

    def artifact(self, name: str) -> Path:
        """Where to write the artifact of this name; call `keep` once it is there."""
        path = self.folder / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def keep(self, name: str) -> None:
        """Record that artifacts/<name> is complete."""
        self.write("artifact", path=name)

    def sync(self) -> None:
        """Until what was written is on the disk itself."""
        os.fsync(self._file)

    def close(self, status: str | None, **fields: Any) -> None:
        """The last event of a run; fsynced, for it is what tells a finished run from an interrupted one. None: the run
        had ended before, and something was added to it."""
        if status:
            self.write("status", value=status, **fields)
        os.fsync(self._file)
        os.close(self._file)


def read(folder: Path, file: str = FILE, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """(offset after the line, event) of each complete line from byte `start` on."""
    path = folder / file
    if not path.exists():
        return
    with path.open("rb") as stream:
        stream.seek(start)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            yield start, json.loads(line)


def history(folder: Path) -> dict[str, dict[int, float]]:
    """Metric name -> {step: value}, the first entry for each standing."""
    found: dict[str, dict[int, float]] = {}
    for _, event in read(folder):
        if event["event"] == "metrics":
            for name, value in event["values"].items():
                found.setdefault(name, {}).setdefault(event["step"], value)
    return found


def status(folder: Path) -> str:
    """The last status written; RUNNING for a run that never wrote one (going on, or interrupted)."""
    last = "RUNNING"
    for _, event in read(folder):
        if event["event"] == "status":
            last = event["value"]
    return last


def drop_torn_tail(path: Path) -> None:
    """Cut a last line that a kill left half written."""
    if not path.exists():
        return
    with path.open("rb+") as stream:
        content = stream.read()
        if content and not content.endswith(b"\n"):
            stream.truncate(content.rfind(b"\n") + 1)


def keep_text(journal: Journal, name: str, text: str) -> None:
    """An artifact of text, complete and recorded; the file is whole or not there."""
    write_whole(journal.artifact(name), text)
    journal.keep(name)


def keep_rows(journal: Journal, name: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """An artifact of comma-separated values."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(head)
    table.writerows(rows)
    keep_text(journal, name, stream.getvalue())
