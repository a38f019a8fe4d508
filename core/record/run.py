"""A run on record: what was declared, where it ran, what came of it. Read back from its folder."""

from __future__ import annotations

import contextlib
import json
import os
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
from core.common.text import did_you_mean
from core.declare.renamed import migrated_record
from core.record import journal

if TYPE_CHECKING:
    import numpy as np

VERSION = 2
RECORD = "record.json"
WEIGHTS = "weights/best.safetensors"
SUMMARY = "summary.json"
CONFUSION = "confusion_matrix.csv"
REPORT = "report.html"
PRUNED = "pruned"  # a tag, of a trial that was not trained to its end
IMPORTED = "imported"  # in a record: where an old run was taken from that labbook did not train
REPLACED = "imported.replaced_by"  # a tag, of an imported run whose source was imported again
BEST = "best.json"  # of a study: the declaration of its best trial


@dataclass(frozen=True)
class RecordedRun:
    """One run's folder. Everything is read when asked for."""

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
        """The record as written. Raises UserError where it is missing or of a version this code cannot read."""
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
        """The last text of each."""
        events = (event for _, event in journal.read(self.folder) if event["event"] == "tags")
        return {name: text for event in events for name, text in event["values"].items()}

    @property
    def params(self) -> dict[str, str]:
        """Dotted name -> declared value, as it was recorded."""
        return next(event["values"] for _, event in journal.read(self.folder) if event["event"] == "params")

    @property
    def opening(self) -> dict[str, Any]:
        """The journal's first event "run": experiment, name, description, parent."""
        return next(event for _, event in journal.read(self.folder) if event["event"] == "run")

    @property
    def confusion(self) -> tuple[list[str], np.ndarray] | None:
        """(classes, int64 [C, C]: rows true classes) of the test split; None for a run that was not tested."""
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
        """Whether the images that it was trained on have several labels at a time."""
        return bool(self.record["data"].get("multi_label"))  # records were written before there was such a thing

    @property
    def seconds(self) -> float:
        """Time in training, from its rates: what lay between two sittings does not count."""
        rates = self.history.get("images_per_second", {}).values()
        images: int = self.record["data"]["train"]
        return sum(images / rate for rate in rates if rate)  # 0: resumed at an epoch's end

    @classmethod
    def load(cls, run: str | Path) -> Self:
        """The run of this id, of a unique beginning of an id, or in this folder. Raises UserError."""
        folder = Path(run)
        if (folder / journal.FILE).exists():
            return cls(folder)
        known = {path.name: path for path in sorted(paths.runs().glob("*")) if (path / journal.FILE).exists()}
        begun = [name for name in known if str(run) and name.startswith(str(run))]
        # the whole name of an experiment does not stand for the run of another one: digits_cnn, digits_cnn-wide
        found = [name for name in begun if not named_in(name).startswith(f"{run}-")]
        if str(run) in known:
            return cls(known[str(run)])
        if len(found) == 1:
            return cls(known[found[0]])
        if found:
            raise UserError([f"{run}: {len(found)} runs begin so; name one: {', '.join(found[:5])}"])
        raise UserError([f"{run}: no such run in {paths.runs()}{did_you_mean(str(run), known)}"])

    @classmethod
    def of_experiment(cls, experiment: str) -> Iterator[Self]:
        """Runs on record of this experiment, the latest first. Records are read, but no journal.

        The record decides, because the ids of another experiment may begin with this one's name. The id decides for a
        run whose record cannot be read: such a run is yielded, and its `record` raises UserError.
        """
        folders = [folder for folder in paths.runs().glob("*") if folder.name.startswith(f"{experiment}-")]
        for run in map(cls, sorted(folders, reverse=True)):
            if (run.folder / "artifacts" / RECORD).exists() and _experiment_of(run) == experiment:
                yield run


def last(history: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Metric name -> last value."""
    return {name: points[max(points)] for name, points in history.items()}


def _experiment_of(run: RecordedRun) -> str:
    try:
        return str(run.record["experiment"])
    except (UserError, KeyError):
        return named_in(run.id)


def named_in(run_id: str) -> str:
    """The experiment in the id of a run, <experiment>-<date>-<time>-<random>."""
    return run_id.rsplit("-", 3)[0]


def read_record(path: Path) -> dict[str, Any]:
    """A record.json. Raises UserError, saying why, for one that is missing, broken or of another version."""
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError([f"{path}: no record there"]) from None
    except (OSError, ValueError) as error:
        raise UserError([f"{path}: not a record: {error}"]) from None
    version = record.get("labbook") if isinstance(record, dict) else None
    if version == 1:
        return migrated_record(record) | {"labbook": VERSION}
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        advice = "use the labbook that wrote it" if newer else "this labbook reads none so old"
        raise UserError([f"{path}: record of version {version}, this labbook writes version {VERSION}: {advice}"])
    return record


def holds_others(record: Mapping[str, Any]) -> bool:
    """Whether it is of a parent (of several seeds, of a study's trials), which is no run of its own."""
    return "seeds" in record or "study" in record


def in_study(run: RecordedRun) -> bool:
    """Whether it is a study's run or stands below one: those go on with the search that began them."""
    above = run.record.get("parent")
    folder = paths.runs() / above if above else run.folder
    return (RecordedRun(folder) if folder.exists() else run).record.get("study") is not None


def run_id(experiment: str) -> str:
    """<experiment>-<date>-<time>-<random>, which sorts by start within an experiment. Raises UserError."""
    if not re.fullmatch(r"\w[\w.-]*", experiment):
        raise UserError([f"heading: {experiment!r} cannot name a folder; use letters, digits, - and _"])
    return f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def write_summary(run: RecordedRun, status: str) -> None:
    """summary.json: what listings show, so that they need not read a whole journal. To be written before the journal
    tells of the end, after which nobody would make up for it.

    whole: trained on all of its data, to its end: no smoke run, no pruned trial, no parent of several seeds.
    """
    recorded = (run.folder / "artifacts" / RECORD).exists()
    own = recorded and not holds_others(run.record)
    whole = own and run.record["declaration"]["limit"] is None and PRUNED not in run.tags
    metrics = run.metrics | ({"seconds": run.seconds} if own else {})
    temporary = run.folder / f"{SUMMARY}.part"
    with contextlib.suppress(OSError):  # on a full disk: the journal has it all
        temporary.write_text(json.dumps({"status": status, "metrics": metrics, "whole": whole}))
        os.replace(temporary, run.folder / SUMMARY)
