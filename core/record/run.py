"""RecordedRun: the declaration, environment and results of a run, read from its folder."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from core.common import paths
from core.common.errors import UserError
from core.common.files import write_atomic
from core.common.text import did_you_mean
from core.declare.renamed import migrated_record
from core.record import journal

if TYPE_CHECKING:
    import numpy as np

VERSION = 3
RECORD = "record.json"
WEIGHTS = "weights/best.safetensors"
SUMMARY = "summary.json"
CONFUSION = "confusion_matrix.csv"
REPORT = "report.html"
PRUNED = "pruned"  # tag of a trial that was pruned
IMPORTED = "imported"  # key in a record: source of a run that was imported from another program
REPLACED = "imported.replaced_by"  # tag of an imported run whose source was imported again
BEST = "best.json"  # artifact of a study: the declaration of its best trial


@dataclass(frozen=True)
class RecordedRun:
    """A run, given by its folder. Properties are read from disk on access."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def status(self) -> str:
        """RUNNING (or interrupted), FINISHED, FAILED or KILLED."""
        return journal.status(self.folder)

    @cached_property
    def record(self) -> dict[str, Any]:
        """The contents of record.json. Raises UserError if it is missing or its version is not supported."""
        return read_record(self.folder / "artifacts" / RECORD)

    @property
    def history(self) -> dict[str, dict[int, float]]:
        """Metric name -> {step: value}."""
        return journal.history(self.folder)

    @property
    def metrics(self) -> dict[str, float]:
        """Metric name -> last value."""
        return last(self.history)

    @property
    def tags(self) -> dict[str, str]:
        """Tag name -> last value."""
        events = (event for _, event in journal.read(self.folder) if event["event"] == "tags")
        return {name: text for event in events for name, text in event["values"].items()}

    @property
    def params(self) -> dict[str, str]:
        """Dotted name -> declared value, as recorded."""
        return next(event["values"] for _, event in journal.read(self.folder) if event["event"] == "params")

    @property
    def opening(self) -> dict[str, Any]:
        """The journal's first event "run": experiment, name, description, parent."""
        return next(event for _, event in journal.read(self.folder) if event["event"] == "run")

    @property
    def confusion(self) -> tuple[list[str], np.ndarray] | None:
        """(classes, confusion matrix int64 [C, C], rows are true classes) of the test split; None if not evaluated."""
        import csv

        import numpy as np

        path = self.folder / "artifacts" / CONFUSION
        if not path.exists():
            return None
        with path.open(newline="") as stream:
            (_, *classes), *rows = csv.reader(stream)
        return classes, np.array([row[1:] for row in rows], dtype=np.int64)

    @property
    def multi_label(self) -> bool:
        """Whether the run was trained on multi-label images."""
        return bool(self.record["data"].get("multi_label"))  # old records lack this key

    @property
    def seconds(self) -> float:
        """Training time in seconds, computed from images per second; time between an interruption and its resume does
        not count."""
        rates = self.history.get("images_per_second", {}).values()
        images: int = self.record["data"]["train"]
        return sum(images / rate for rate in rates if rate)  # 0: resumed at an epoch's end

    @classmethod
    def load(cls, run: str | Path) -> Self:
        """Load a run by id, by a unique prefix of its id, or from a folder. Raises UserError."""
        folder = Path(run)
        if (folder / journal.FILE).exists():
            return cls(folder)
        known = {path.name: path for path in sorted(paths.runs().glob("*")) if (path / journal.FILE).exists()}
        matching = [name for name in known if str(run) and name.startswith(str(run))]
        # the name of an experiment does not match runs of another one: digits_cnn, digits_cnn-wide
        found = [name for name in matching if not named_in(name).startswith(f"{run}-")]
        if str(run) in known:
            return cls(known[str(run)])
        if len(found) == 1:
            return cls(known[found[0]])
        if found:
            raise UserError([f"{run}: {len(found)} run ids start with this; use one of {', '.join(found[:5])}"])
        raise UserError([f"{run}: run not found in {paths.runs()}{did_you_mean(str(run), known)}"])

    @classmethod
    def of_experiment(cls, experiment: str) -> Iterator[Self]:
        """Yield the runs of an experiment, the latest first. Reads records, but no journals.

        The record determines the experiment, because ids of another experiment may start with the same name. If the
        record cannot be read, the id determines it: such a run is yielded, and its `record` raises UserError.
        """
        folders = [folder for folder in paths.runs().glob("*") if folder.name.startswith(f"{experiment}-")]
        for run in map(cls, sorted(folders, reverse=True)):
            if (run.folder / "artifacts" / RECORD).exists() and _experiment_of(run) == experiment:
                yield run

    def children(self) -> Iterator[Self]:
        """Yield the runs of this parent (several seeds, or a study), the latest first. Runs whose record cannot be read
        are skipped."""
        return (run for run in self.of_experiment(self.record["experiment"]) if _parent_of(run) == self.id)


def last(history: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Returns metric name -> last value."""
    return {name: points[max(points)] for name, points in history.items()}


def _experiment_of(run: RecordedRun) -> str:
    try:
        return str(run.record["experiment"])
    except (UserError, KeyError):
        return named_in(run.id)


def _parent_of(run: RecordedRun) -> str | None:
    try:
        return run.record.get("parent")
    except UserError:
        return None


def named_in(run_id: str) -> str:
    """Returns the name of the experiment in a run id, <experiment>-<date>-<time>-<random>."""
    return run_id.rsplit("-", 3)[0]


def read_record(path: Path) -> dict[str, Any]:
    """Read a record.json. Raises UserError if it is missing, damaged or of an unsupported version."""
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError([f"{path}: file not found"]) from None
    except (OSError, ValueError) as error:
        raise UserError([f"{path}: not a record: {error}"]) from None
    version = record.get("labbook") if isinstance(record, dict) else None
    if version in (1, 2):
        return migrated_record(record) | {"labbook": VERSION}
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        advice = "use the labbook that wrote it" if newer else "it is too old for this labbook"
        raise UserError([f"{path}: the record has version {version}, this labbook writes version {VERSION}: {advice}"])
    return record


def holds_others(record: Mapping[str, Any]) -> bool:
    """Whether a record belongs to the parent of several seeds or of a study, which does not train itself."""
    return "seeds" in record or "study" in record


def in_study(run: RecordedRun) -> bool:
    """Whether a run is a study or one of its trials, which are resumed by their search."""
    above = run.record.get("parent")
    folder = paths.runs() / above if above else run.folder
    return (RecordedRun(folder) if folder.exists() else run).record.get("study") is not None


def run_id(experiment: str) -> str:
    """Returns a new id, <experiment>-<date>-<time>-<random>; ids of an experiment sort by start. Raises UserError."""
    if not re.fullmatch(r"\w[\w.-]*", experiment):
        raise UserError([f"experiment: {experiment!r} is not a valid folder name; use letters, digits, - and _"])
    return f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def write_summary(run: RecordedRun, status: str) -> None:
    """Write summary.json, so that listings need not read the journal. Call before the final status is written to the
    journal: nothing rewrites the summary of a run that has ended.

    whole: the run was trained on all of its data to the end: not a smoke run, pruned trial or parent of several seeds.
    """
    recorded = (run.folder / "artifacts" / RECORD).exists()
    own = recorded and not holds_others(run.record)
    whole = own and run.record["declaration"]["limit"] is None and PRUNED not in run.tags
    metrics = run.metrics | ({"seconds": run.seconds} if own else {})
    with contextlib.suppress(OSError):  # a full disk is tolerated: the journal contains everything
        write_atomic(run.folder / SUMMARY, json.dumps({"status": status, "metrics": metrics, "whole": whole}))
