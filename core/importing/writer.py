"""Write an imported run to the record, with a journal like that of any other run. The run appears atomically."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from core.common import paths
from core.common.errors import UserError
from core.common.files import write_atomic
from core.importing import param_names
from core.importing.log import Artifact, Log, Origin
from core.importing.metric_names import Name
from core.record import provenance
from core.record.ids import new_id
from core.record.journal import Journal, log_text
from core.record.labels import write_labels
from core.record.latest import link_latest
from core.record.run import IMPORTED, RECORD, REPLACED, VERSION, RecordedRun, read_record
from core.record.summary import SUMMARY

MOST_BYTES, MOST_OF_ALL = 2**20, 2**25  # of an artifact that is copied, and of all that are


@dataclass(frozen=True)
class OldRun:
    """A run of another program, ready to be written. data: digest or name of its images; None if unknown."""

    source: Origin
    digest: str
    log: Log
    names: tuple[Name, ...]
    experiment: str
    data: str | None

    @property
    def params(self) -> dict[str, str]:
        """The settings, common ones by the names of labbook's fields. A run without any but a seed gets its name as its
        only one."""
        names = self.param_names
        found = {names[name]: text for name, text in self.log.params.items()}
        return ({} if found.keys() - {param_names.SEED} else {"run": self.source.name}) | found

    @property
    def param_names(self) -> dict[str, str]:
        """Old name -> name on record of each setting."""
        return param_names.named(self.log.params)

    @property
    def points(self) -> list[tuple[int | None, int, str, float]]:
        """(time in ms, step, name, value) as recorded, sorted by time and step."""
        names = {name.old: name for name in self.names}
        found = [(p.time, p.step, names[p.name].new, p.value * names[p.name].scale) for p in self.log.points]
        return sorted(found, key=lambda point: (point[0] or 0, point[1]))

    @property
    def settings(self) -> dict[str, object]:
        """The options of the import. A run with the same digest and the same options is already on record."""
        names = {name.old: [name.new, name.scale] for name in self.names}
        changed = {old: new for old, new in self.param_names.items() if old != new}
        return {"names": names, "data": self.data, "experiment": self.experiment} | (
            {"params": changed} if changed else {}
        )


def on_record() -> list[dict[str, Any]]:
    """Returns the records of all imported runs, the latest first, except those that a later import has replaced."""
    found = sorted(paths.runs().glob(f"*/artifacts/{RECORD}"), reverse=True)
    records = [record for path in found if (record := _imported(path))]
    replaced = {record[IMPORTED]["replaces"] for record in records}
    return [record for record in records if record["run"] not in replaced]


def earlier(old: OldRun, known: Iterable[Mapping[str, Any]]) -> tuple[RecordedRun | None, bool]:
    """Returns (the run of an earlier import of the same log or None, whether log and options are unchanged).

    known: the records that `on_record` returned.
    """
    place = old.source.place
    origins = [(record[IMPORTED], record["run"]) for record in known]
    found = [(origin["digest"] == old.digest, origin["path"] == place, origin, run) for origin, run in origins]
    # a log that was copied has the same digest at another path, and one that has grown another digest at the same path
    matching = sorted((one for one in found if one[0] or one[1]), key=lambda one: (not one[0], not one[1]))
    if not matching:
        return None, False
    same, _, origin, run = matching[0]
    return RecordedRun(paths.runs() / run), same and origin["told"] == old.settings


def parent_of(old: OldRun, known: Iterable[Mapping[str, Any]]) -> str | None:
    """The id of the run that this one was nested in, if it is on record; None without one."""
    found = (str(record["run"]) for record in known if record[IMPORTED]["path"] == old.log.parent)
    return next(found, None) if old.log.parent else None


def write(old: OldRun, replaces: RecordedRun | None = None, parent: str | None = None) -> RecordedRun:
    """Write a run to the record, with the times of the log if it has any. parent: id of the run that it is nested in.
    Returns the new run. Raises UserError."""
    identity = new_id(old.experiment)
    try:
        paths.runs().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="importing-", dir=paths.runs().parent) as aside:
            _write(Journal(Path(aside) / identity), old, identity, replaces, parent)
            os.rename(Path(aside) / identity, paths.runs() / identity)
        if replaces:
            journal = Journal(replaces.folder)
            journal.write("tags", values={REPLACED: identity})
    except OSError as error:
        raise UserError([f"runs cannot be written to {paths.runs()}: {error.strerror}"]) from None
    link_latest(paths.runs() / identity, old.experiment)
    return RecordedRun(paths.runs() / identity)


def _write(journal: Journal, old: OldRun, identity: str, replaces: RecordedRun | None, parent: str | None) -> None:
    log, points, now = old.log, old.points, time.time_ns() // 1_000_000
    times = [at for at in (log.start, log.end, *(at for at, *_ in points)) if at is not None]
    start, end = (min(times), max(times)) if times else (now, now)
    origin = {
        "path": old.source.place,
        "kind": old.log.kind,
        "digest": old.digest,
        "told": old.settings,  # this key is on record
        "replaces": replaces.id if replaces else None,
        "notes": list(log.notes),
        **({"artifacts": _copied(journal, log.artifacts)} if log.artifacts else {}),
    }
    tags = {
        "imported.from": old.source.place,
        "imported.kind": old.log.kind,
        "imported.digest": old.digest,
        "mlflow.source.name": provenance.command(),
        **{f"imported.{name}": text for name, text in log.facts.items()},
        **({"imported.data": old.data} if old.data else {}),
        **({"imported.replaces": replaces.id} if replaces else {}),
    }
    record = {
        "labbook": VERSION,
        "run": identity,
        "experiment": old.experiment,
        "variant": None if log.params else old.source.name,
        "parent": parent,
        "trial": None,
        "declaration": None,
        "launch": None,
        "data": {"digest": old.data},
        "facts": tags,
        IMPORTED: origin,
    }
    journal.write(
        "run", time=start, id=identity, experiment=old.experiment, name=old.source.name, description="", parent=parent,
        pid=os.getpid(), host=platform.node(),
    )  # fmt: skip
    journal.write("params", time=start, values=old.params)
    journal.write("tags", time=start, values=tags)
    for (at, step), group in groupby(points, key=lambda point: point[:2]):
        journal.write("metrics", time=at or start, step=step, values={name: value for _, _, name, value in group})
    log_text(journal, RECORD, json.dumps(record, indent=2) + "\n")
    last = {name: value for _, step, name, value in sorted(points, key=lambda point: point[1])}
    metrics = last | ({"seconds": (end - start) / 1000} if times else {})
    if labels := {name: text for name, text in log.labels.items() if text}:
        write_labels(journal.folder, labels)
    summary = {"status": log.status, "metrics": metrics, "whole": True, IMPORTED: True}
    write_atomic(journal.folder / SUMMARY, json.dumps(summary))
    journal.close(log.status, time=end)


def _copied(journal: Journal, artifacts: Iterable[Artifact]) -> list[dict[str, Any]]:
    """Copy small artifacts of a run. Returns name, bytes, and whether it was copied, of each."""
    left, found = MOST_OF_ALL, []
    for one in artifacts:
        copied = one.bytes <= min(MOST_BYTES, left)
        if copied:
            try:
                one.fetch(journal.artifact(f"{IMPORTED}/{one.name}"))
                journal.log_artifact(f"{IMPORTED}/{one.name}")
                left -= one.bytes
            except UserError:  # a store of artifacts that does not answer
                copied = False
        found.append({"name": one.name, "bytes": one.bytes, "copied": copied})
    return found


def _imported(path: Path) -> dict[str, Any] | None:
    """The record of an imported run; None for any other run, or if it cannot be read."""
    try:
        record = read_record(path)
    except UserError:
        return None
    return record if IMPORTED in record else None
