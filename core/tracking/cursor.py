"""The progress of a mirror with a run, in mirror.json in the run's folder, and the lock of the sending process.

That of MLflow has this name; that of another tracker has its own, such as mirror.tensorboard.json.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from core.common.files import write_atomic
from core.common.sealed import sealed, unsealed
from core.common.text import public
from core.record import journal
from core.record.run import LABELS, MIRROR

FILE = MIRROR
LOCK = "mirror.lock"
MLFLOW = "mlflow"
SYSTEM = "system.jsonl"
_OFFSETS = {journal.FILE: "journal", SYSTEM: "system", LABELS: "labels"}  # file -> its field of Record
SOURCES = tuple(_OFFSETS)
_MOST_REFUSED = 50
_TAIL = 1 << 16


@dataclass(frozen=True)
class Record:
    """The run `run_id` of a tracker has the first `journal` bytes of the journal, and so on for system.jsonl and
    labels.jsonl.

    tracking_uri: where the tracker keeps its runs.  If run_id is empty, a mirror has started to create the run: it may
    exist, in MLflow with the tag labbook.run.  status: the last one sent.  refused: entries that were rejected, with
    the reason.  problem: why sending has stopped or waits.  deleted: whether a user deleted the run there.  view: the
    shared view of its experiment in MLflow, or "".  position: of TensorBoard, how many bytes of its
    file hold these entries; of W&B, whether the offline run is complete.
    """

    tracking_uri: str
    experiment_id: str = ""
    run_id: str = ""
    journal: int = 0
    system: int = 0
    labels: int = 0
    status: str = "RUNNING"
    refused: tuple[str, ...] = ()
    problem: str = ""
    deleted: bool = False
    view: str = ""
    position: int = 0

    def offset(self, file: str) -> int:
        offset: int = getattr(self, _OFFSETS[file])
        return offset

    def at(self, file: str, end: int) -> Record:
        """Returns a copy in which `file` has been sent up to byte `end`."""
        return replace(self, **{_OFFSETS[file]: end})  # type: ignore[arg-type]

    def with_refused(self, notes: list[str]) -> tuple[str, ...]:
        """Returns the rejected entries with `notes` added, without duplicates.

        Their number is limited, because this file is rewritten after every batch.
        """
        return tuple(dict.fromkeys([*self.refused, *notes]))[:_MOST_REFUSED]


_record = TypeAdapter(Record)


def file_of(tracker: str) -> str:
    """Returns the name of the file with the progress of a tracker's mirror."""
    return FILE if tracker == MLFLOW else f"mirror.{tracker}.json"


def lock_of(tracker: str) -> str:
    """Returns the name of the file that the process holds which sends runs to a tracker."""
    return LOCK if tracker == MLFLOW else f"mirror.{tracker}.lock"


def load(folder: Path, tracker: str = MLFLOW) -> Record | None:
    """Returns None if no mirror has sent this run. If the file is damaged, the URI is empty, and MLflow is searched."""
    try:
        record = _record.validate_python(unsealed((folder / file_of(tracker)).read_bytes()))
        # an earlier version may have left a password in it
        record = replace(record, tracking_uri=public(record.tracking_uri, whole=True))
        sent = [record.position, *(record.offset(file) for file in SOURCES)]
        return record if min(sent) >= 0 else Record(tracking_uri="")
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return Record(tracking_uri="")


def save(folder: Path, record: Record, tracker: str = MLFLOW) -> None:
    """Write the progress of a mirror atomically. Passwords in URIs are removed here, wherever the texts come from."""
    texts = {
        "tracking_uri": public(record.tracking_uri, whole=True),
        "problem": public(record.problem),
        "refused": [public(note) for note in record.refused],
    }
    write_atomic(folder / file_of(tracker), sealed(asdict(record) | texts, indent=1))


def entries(folder: Path, file: str, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Same as journal.read, but a line that is not JSON, as a full disk may leave it, becomes an "unreadable" event."""
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
    """Returns the number of complete lines that have not been sent yet."""
    return sum(1 for file in SOURCES for _ in entries(folder, file, record.offset(file) if record else 0))


def last_event(folder: Path, file: str = journal.FILE) -> dict[str, Any] | None:
    """Returns the event in the last complete line, reading only the end of the file; None without a valid one."""
    try:
        with (folder / file).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL))
            event: dict[str, Any] = json.loads(stream.read().rpartition(b"\n")[0].rpartition(b"\n")[2])
            return event
    except (OSError, ValueError):
        return None
