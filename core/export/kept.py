"""The exports of a run on record, in its artifact export.json: what was measured, and digests of the files.

It holds `formats`, the measurements of the last call and those of earlier calls whose files are still there; `tables`
of them, each with its head as the first row; and `at_most`, `threads` and `torch` of the last call.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.common.files import sha256_of
from core.export import table
from core.export.formats import EXPORTS
from core.export.latency import Latency
from core.export.measured import Measured
from core.record.journal import Journal, log_text
from core.record.lock import PATIENCE, locked
from core.record.run import EXPORT, RecordedRun


def model_files(folder: Path) -> list[Path]:
    """The files of the model in the folder of an export, sorted by name; none without an export."""
    return sorted(file for file in folder.glob("model.*") if file.is_file())


def digest_of(folder: Path) -> str:
    """SHA-256 of the names and contents of the files of a model."""
    found = hashlib.sha256()
    for file in model_files(folder):
        found.update(f"{file.name} {sha256_of(file)}\n".encode())
    return found.hexdigest()


def on_record(run: RecordedRun) -> list[Measured]:
    """The exports of a run. Raises UserError if export.json is damaged."""
    if not (run.folder / "artifacts" / EXPORT).exists():
        return []
    formats: list[dict[str, Any]] = json.loads(run.artifact(EXPORT).read_text())["formats"]
    return [Measured.read(each) for each in formats]


def record(
    run: RecordedRun, eager: Mapping[int, Latency], found: Sequence[Measured], facts: Mapping[str, Any], name: str
) -> None:
    """Record the exports of a call. eager: latency of eager PyTorch, whose name in the table is `name`.  facts: of the
    call.  Raises UserError and OSError."""
    with locked(run.folder, PATIENCE):
        new = {one.digest for one in found}
        earlier = [one for one in on_record(run) if one.digest not in new and _is_there(run, one)]
        again = {one.name for one in found}
        named = [replace(one, name=f"{one.name} (earlier)") if one.name in again else one for one in earlier]
        shown = [*named, *found]
        times = {name: eager} | {one.name: one.latency for one in shown if one.latency}
        formats = [one.record() for one in (*earlier, *found)]
        tables = [table.answers(shown), table.latencies(times)]
        journal = Journal(run.folder)
        log_text(journal, EXPORT, json.dumps({**facts, "formats": formats, "tables": tables}, indent=1))
        journal.close(None)


def _is_there(run: RecordedRun, one: Measured) -> bool:
    """Whether the files of an export are where they were written, also if the folder of the run has moved since."""
    places = [folder / one.name for folder in (Path(one.folder), run.folder / EXPORTS)]
    return bool(one.digest) and any(digest_of(place) == one.digest for place in places)
