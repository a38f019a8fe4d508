"""Runs in a store of MLflow, as its client, Lightning's MLFlowLogger, or autologging wrote them.

A metric of Lightning has the global step, and the metric `epoch` at the same step says which epoch it belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core.common import paths
from core.common.errors import UserError
from core.common.text import public
from core.importing.log import Artifact, Found, Log, Origin, Point, Stored, labeled, placed, wanted
from core.record.labels import NAME, NOTE

if TYPE_CHECKING:
    from core.tracking.stored import Store, StoredRun

KIND = "MLflow"
DATABASE = "mlflow.db"
_PARENT, _EPOCH, _OWN = "mlflow.parentRunId", "epoch", "labbook.run"
_FACTS = {
    "mlflow.source.git.commit": "git.commit",
    "mlflow.source.name": "source",
    "mlflow.user": "user",
}
_ENDS = {"FINISHED": "FINISHED", "FAILED": "FAILED", "KILLED": "KILLED"}


@dataclass(frozen=True)
class MlflowSource:
    """A store of MLflow. uri: its tracking URI."""

    uri: str

    @property
    def place(self) -> str:
        return public(self.uri, whole=True)

    def read(self, only: Collection[str]) -> Found:
        from core.tracking.stored import Store

        store = Store(self.uri)
        every = list(store.runs())
        asked = [run for run in every if wanted(_words(run), only)]
        above = {run.tags.get(_PARENT) for run in asked}
        found: list[tuple[Origin, Log]] = []
        left = []
        for run in _parents_first(asked):
            own = run.tags.get(_OWN)
            if own and (paths.runs() / own).is_dir():
                left.append(f"{place_of(run.id)} ({run.name}): is the run {own} of labbook, which is on record")
            elif not run.last and run.id not in above:
                left.append(f"{place_of(run.id)} ({run.name}): has no metrics")
            else:
                log = _log(store, run)
                found.append((Stored(run.name, place_of(run.id), log.digest, _words(run)), log))
        if not every:
            raise UserError([f"{self.place}: has no runs"])
        return found, left


def uri_of(word: str) -> str | None:
    """The tracking URI that a word means, such as sqlite:///FILE, http://HOST, file:FOLDER, or the path of a database
    of SQLite; None for any other path."""
    if word.startswith("sqlite:///"):
        return f"sqlite:///{Path(word.removeprefix('sqlite:///')).absolute()}"
    if "://" in word or word.startswith("file:"):
        return word
    path = Path(word)
    return f"sqlite:///{path.absolute()}" if path.suffix in (".db", ".sqlite") and path.is_file() else None


def place_of(run_id: str) -> str:
    """MLflow's ids are unique in all stores."""
    return f"MLflow run {run_id}"


def _words(run: StoredRun) -> frozenset[str]:
    return frozenset((run.id, run.name, run.experiment))


def _parents_first(runs: Collection[StoredRun]) -> Iterator[StoredRun]:
    """Yield runs, those that began first before others, and each after the run that it is nested in."""
    left = {run.id: run for run in sorted(runs, key=lambda run: run.start or 0)}
    while left:
        free = [run for run in left.values() if run.tags.get(_PARENT) not in left]
        for run in free or list(left.values()):  # two that claim to be nested in each other
            yield left.pop(run.id)


def _log(store: Store, run: StoredRun) -> Log:
    histories = {name: store.history(run.id, name) for name in run.last}
    epochs = {step: int(value) for step, value, _ in histories.get(_EPOCH, ()) if abs(value) < 2**53}
    if len(histories) > 1:
        histories.pop(_EPOCH, None)
    points, notes = placed(
        Point(name, step, value, epochs.get(step), time)
        for name, values in histories.items()
        for step, value, time in values
    )
    if run.status not in _ENDS:
        notes.append(f"its status is {run.status}: it is imported as KILLED; import it again once it has ended")
    try:
        files = store.files(run.id)
    except UserError as problem:  # of a store of artifacts that is elsewhere
        files = []
        notes.append(f"its artifacts cannot be listed: {problem}")
    labels = {labeled(name): text for name, text in run.tags.items() if not name.startswith("mlflow.")}
    labels |= {NAME: run.name, NOTE: run.tags.get(NOTE, "")}
    facts = {fact: run.tags[tag] for tag, fact in _FACTS.items() if tag in run.tags}
    parent = run.tags.get(_PARENT)
    return Log(
        KIND,
        run.params,
        tuple(points),
        tuple(notes),
        labels,
        facts | {"store": store.uri},
        _ENDS.get(run.status, "KILLED"),
        run.start,
        run.end,
        re.sub(r"^/+", "", run.experiment),
        place_of(parent) if parent else None,
        tuple(Artifact(name, size, partial(store.fetch, run.id, name)) for name, size in files),
    )
