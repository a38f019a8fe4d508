"""Journal: the append-only event log of a run on local disk. It is the source of truth; MLflow mirrors it.

The folder of a run is mlruns/runs/<run id>/ and contains

    journal.jsonl   one event per line, written by the trainer only
    system.jsonl    the same format, written by the mirror: system metrics
    labels.jsonl    the same format, written by `labbook tag`, `note`, `rename` and `archive`: "tags" of the user
    artifacts/      files that the journal names
    mirror.json     position of the mirror in the journal

Events, each {"event": kind, "time": ms since 1970, ...}:

    run      id, experiment, name, description, parent (a run id or null), pid, host
    params   values: {dotted name: text}
    tags     values: {name: text}
    dataset  name, digest, source, context, profile: {..}
    metrics  step, values: {name: number}; only the first entry for a (name, step) counts
    artifact path (relative to artifacts/), sha256
    digest   path, sha256: the artifact is about to be replaced by this content (null: deleted); it is not complete yet
    status   value: RUNNING | FINISHED | FAILED | KILLED

The last field of a line, "crc", is the CRC-32 of the line without it; lines of older versions lack it.
"""

from __future__ import annotations

import csv
import errno
import functools
import hashlib
import io
import json
import math
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from core.common.errors import UserError
from core.common.files import make_folder, place, sha256_of, sync, write_atomic

FILE = "journal.jsonl"
_to_json = json.JSONEncoder(separators=(",", ":")).encode  # created once: json.dumps would create one for each line
ENDED = ("FINISHED", "FAILED", "KILLED")
_CRC = b',"crc":'  # begins the last field of a line
_FIELDS: dict[str, dict[str, Any]] = {  # types of the fields that every event of a kind has
    "run": {"id": str, "experiment": str},
    "params": {"values": dict},
    "dataset": {"name": str, "digest": str, "source": (str, dict)},
    "tags": {"values": dict},
    "metrics": {"step": int, "values": dict},
    "artifact": {"path": str},
    "digest": {"path": str},
    "status": {"value": str},
}


class Journal:
    """Writes the journal of one run. When `write` returns, the line survives the death of the process."""

    def __init__(self, folder: Path, file: str = FILE):
        make_folder(folder)
        self.folder = folder
        drop_torn_tail(folder / file)
        self._file = os.open(folder / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        sync(folder)

    @property
    def run_id(self) -> str:
        return self.folder.name

    def write(self, event: str, **fields: Any) -> None:
        """Append an event. fields: those of the event, including `time` if it differs from now. Raises OSError."""
        self._append(_to_json({"event": event, "time": time.time_ns() // 1_000_000, **fields}).encode())

    def _append(self, line: bytes) -> None:
        """Append an event as JSON, with its checksum."""
        data = b"%s%s%d}\n" % (line[:-1], _CRC, zlib.crc32(line))
        written = os.write(self._file, data)
        if written != len(data):
            # a full disk may accept part of a line: remove it, so that the journal remains readable
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / FILE))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append metrics of a step. NaN and infinities are written as NaN, Infinity and -Infinity, which `read`
        accepts."""
        # the line that `write` would append, without an encoder: this may be done after every step
        numbers = ",".join([f"{_name(name)}:{_number(value)}" for name, value in values.items()])
        head = f'{{"event":"metrics","time":{time.time_ns() // 1_000_000},"step":{step},"values":{{'
        self._append(f"{head}{numbers}}}}}".encode())

    def artifact(self, name: str) -> Path:
        """Returns the path at which to write an artifact; call `log_artifact` once it is complete."""
        path = self.folder / "artifacts" / name
        make_folder(path.parent)
        return path

    def log_artifact(self, name: str) -> None:
        """Record that artifacts/<name> is complete, with its digest, once it is on disk. If `replace` wrote it, only a
        digest of then is recorded, so that damage since is not taken for its content."""
        path = self.folder / "artifacts" / name
        sync(path)
        sync(path.parent)
        content = sha256_of(path)
        replaced = [digest for kind, digest in _digests(self.folder, name) if kind == "digest"]
        self.write("artifact", path=name, sha256=content if content in replaced else [content, *replaced][-1])

    def replace(self, name: str, content: bytes) -> None:
        """Replace an artifact that is not complete yet. At all times, also after a power failure, the file has a
        content whose digest is in the journal."""
        path = self.artifact(name)
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(content)
        sync(part)
        self.write("digest", path=name, sha256=hashlib.sha256(content).hexdigest())
        self.sync()
        place(part, path)

    def delete(self, name: str) -> None:
        """Delete an artifact that is not complete yet and not needed."""
        self.write("digest", path=name, sha256=None)
        (self.folder / "artifacts" / name).unlink(missing_ok=True)

    def sync(self) -> None:
        """Flush to disk (fsync)."""
        os.fsync(self._file)

    def close(self, status: str | None, **fields: Any) -> None:
        """Write the final status and close the journal, with an fsync: the status distinguishes a finished run from an
        interrupted one. status: None after adding to a run that had already ended."""
        if status:
            self.write("status", value=status, **fields)
        os.fsync(self._file)
        os.close(self._file)


_name = functools.cache(_to_json)  # of a metric, quoted; there are few


def _number(value: float) -> str:
    return repr(value) if type(value) is float and math.isfinite(value) else _to_json(value)


def read(
    folder: Path, file: str = FILE, start: int = 0, containing: bytes = b""
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (offset after the line, event) for each complete line, starting at byte `start`.

    containing: other lines are skipped without being parsed.
    Raises UserError for a damaged line, which names the file and the line.
    """
    path = folder / file
    if not path.is_file():
        return
    with path.open("rb") as stream:
        stream.seek(start)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            if containing not in line:
                start += len(line)
                continue
            try:
                event = _event(line)
            except (ValueError, RecursionError) as damage:
                number = path.read_bytes().count(b"\n", 0, start) + 1
                advice = "restore the file from a copy, or delete the folder of the run"
                raise UserError([f"{path}: line {number} is damaged ({damage}); {advice}"]) from None
            start += len(line)
            yield start, event


def _event(line: bytes) -> dict[str, Any]:
    """The event in a line. Raises ValueError if it is not what was written, or is no event."""
    written, crc, rest = line.rpartition(_CRC)
    if crc and rest != b"%d}\n" % zlib.crc32(written + b"}"):
        raise ValueError("it does not match its checksum")
    event = json.loads(line)
    if not isinstance(event, dict) or not isinstance(event.get("event"), str) or type(event.get("time")) is not int:
        raise ValueError("it is not an event")
    event.pop("crc", None)
    for name, kind in _FIELDS.get(event["event"], {}).items():
        if not isinstance(event.get(name), kind):
            raise ValueError(f"the {event['event']} event lacks {name}, or it has another type")
    if event["event"] in ("artifact", "digest") and not _is_inside(event["path"]):
        raise ValueError(f"the artifact {event['path']} is outside the folder of the run")
    return event


def _is_inside(path: str) -> bool:
    return bool(path) and not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts


def damage(folder: Path, name: str) -> str:
    """Returns what is wrong with an artifact: it is missing, or none of its digests in the journal is that of its
    content; empty if nothing is. Artifacts of older versions have no digest. Raises UserError for a damaged journal."""
    path = folder / "artifacts" / name
    if not path.is_file():
        return f"{path}: file not found"
    recorded, content = _digests(folder, name), ""
    for _, digest in recorded:
        content = content or sha256_of(path)
        if digest == content:
            return ""
    return f"{path}: damaged: its content does not match its digest in {FILE}" if content else ""


def is_deleted(folder: Path, name: str) -> bool:
    """Whether `Journal.delete` deleted an artifact."""
    return next(reversed([digest for _, digest in _digests(folder, name)]), "") is None


def _digests(folder: Path, name: str) -> Iterator[tuple[str, str | None]]:
    """Yield (event, SHA-256 or None) of each digest of an artifact, the earliest first."""
    for _, event in read(folder, containing=b'"sha256":'):
        if event.get("path") == name:
            yield event["event"], event.get("sha256")


def history(folder: Path) -> dict[str, dict[int, float]]:
    """Returns metric name -> {step: value}, from the first entry for each step."""
    found: dict[str, dict[int, float]] = {}
    for _, event in read(folder):
        if event["event"] == "metrics":
            for name, value in event["values"].items():
                found.setdefault(name, {}).setdefault(event["step"], value)
    return found


def status(folder: Path) -> str:
    """Returns the last status written; RUNNING if none was written yet (the run is running or was interrupted)."""
    last = "RUNNING"
    for _, event in read(folder):
        if event["event"] == "status":
            last = event["value"]
    return last


def drop_torn_tail(path: Path) -> None:
    """Remove an incomplete last line, which a killed process may leave."""
    if not path.exists():
        return
    with path.open("rb+") as stream:
        content = stream.read()
        if content and not content.endswith(b"\n"):
            stream.truncate(content.rfind(b"\n") + 1)


def log_text(journal: Journal, name: str, text: str | bytes) -> None:
    """Write a text artifact atomically and record it. text: as bytes if its encoding is not known."""
    write_atomic(journal.artifact(name), text)
    journal.log_artifact(name)


def log_rows(journal: Journal, name: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV artifact and record it."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(head)
    table.writerows(rows)
    log_text(journal, name, stream.getvalue())
