"""How far MLflow has come with a run: mirror.json in the run's folder, and the lock of the process that sends it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from core.common.files import write_whole
from core.record import journal

FILE = "mirror.json"
LOCK = "mirror.lock"
SYSTEM = "system.jsonl"
SOURCES = (journal.FILE, SYSTEM)
_MOST_REFUSED = 50
_TAIL = 1 << 16


@dataclass(frozen=True)
class Record:
    """The journal up to `journal` bytes and system.jsonl up to `system` bytes are in MLflow's run `run_id`.

    An empty run_id says that creating the run was begun: it may exist, with the tag labbook.run.
    """

    tracking_uri: str
    experiment_id: str = ""
    run_id: str = ""
    journal: int = 0
    system: int = 0
    status: str = "RUNNING"  # what MLflow was last told
    refused: tuple[str, ...] = ()  # what MLflow will never take, and why
    problem: str = ""  # why the mirror is waiting or has left off

    def offset(self, file: str) -> int:
        return self.journal if file == journal.FILE else self.system

    def at(self, file: str, end: int) -> Record:
        """The same, with `file` in MLflow up to byte `end`."""
        return replace(self, journal=end) if file == journal.FILE else replace(self, system=end)

    def with_refused(self, notes: list[str]) -> tuple[str, ...]:
        """Each note once; bounded, for the mirror rewrites this file after every batch."""
        return tuple(dict.fromkeys([*self.refused, *notes]))[:_MOST_REFUSED]


def load(folder: Path) -> Record | None:
    """None when no mirror has been here; a record of no store when the file is damaged (MLflow is then searched)."""
    try:
        fields = json.loads((folder / FILE).read_text())
        return Record(**fields | {"refused": tuple(fields["refused"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        return Record(tracking_uri="")


def save(folder: Path, record: Record) -> None:
    """Atomic. Not fsynced: an older record after a power cut only means that some points are sent twice."""
    write_whole(folder / FILE, json.dumps(asdict(record), indent=1))


def entries(folder: Path, file: str, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """As journal.read; but a line that is no JSON (a full disk can leave one) comes as the event "unreadable"."""
    while True:
        try:
            for end, event in journal.read(folder, file, start):
                start = end
                yield end, event
            return
        except ValueError:
            with (folder / file).open("rb") as stream:
                stream.seek(start)
                start += len(stream.readline())
            yield start, {"event": "unreadable", "time": 0, "end": start}


def waiting(folder: Path, record: Record | None) -> int:
    """How many complete lines MLflow does not have yet."""
    return sum(1 for file in SOURCES for _ in entries(folder, file, record.offset(file) if record else 0))


def last_event(folder: Path, file: str = journal.FILE) -> dict[str, Any] | None:
    """The last complete line, without reading the file from its beginning; None when there is none or it is damaged."""
    try:
        with (folder / file).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL))
            event: dict[str, Any] = json.loads(stream.read().rpartition(b"\n")[0].rpartition(b"\n")[2])
            return event
    except (OSError, ValueError):
        return None
