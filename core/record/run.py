"""RecordedRun: the declaration, environment and results of a run, read from its folder."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.common import paths
from core.common.blocks import Blocks
from core.common.errors import UserError
from core.common.terminal import tell
from core.common.text import did_you_mean
from core.declare.renamed import migrated_record
from core.declare.tree import dotted
from core.record import journal
from core.record.ids import FOLDER_NAME, begun, named_in
from core.record.latest import LATEST, target

if TYPE_CHECKING:
    from scipy.sparse import coo_array

MIRROR = "mirror.json"  # what MLflow has, in the folder of a run; see core/tracking/cursor.py
LABELS = "labels.jsonl"  # name, note and tags of the user, in the folder of a run; see core/record/labels.py
VERSION = 4
RECORD = "record.json"
WEIGHTS = "weights/best.safetensors"
CONFUSION, CONFUSION_PAIRS = "confusion_matrix.csv", "confusion_pairs.csv"  # the pairs: for a large number of classes
REPORT = "report.html"
EXPORT = "export.json"  # artifact: what was measured when the run was exported
GRAPH = "graph.pb"  # artifact of a run with --also tensorboard: its network as TensorBoard draws it, a GraphDef
COMPRESSION = "compression.json"  # size and latency before and after pruning or quantization
PRUNED = "pruned"  # tag of a trial that was pruned
PAUSED = "paused"  # tag of a trial that was paused: true, and false once it is resumed
MICRO_BATCHES = "micro_batches"  # tag of a run that went on in more micro-batches when memory ran out, with the step
IMPORTED = "imported"  # key in a record: source of a run that was imported from another program
COMBINED = "combined"  # key in a record: the runs that an ensemble or a soup was made of
REPLACED = "imported.replaced_by"  # tag of an imported run whose source was imported again
BEST = "best.json"  # artifact of a study: the declaration of its best trial
_Name = Annotated[str, Field(pattern=FOLDER_NAME)]
_Count = Annotated[int, Field(ge=0)]


class _Typed(BaseModel):
    """Types of fields; which of them a record has depends on what was recorded, and when."""

    model_config = ConfigDict(strict=True)


class _Data(_Typed):
    name: str = ""
    digest: str | None = None
    source: str = ""
    classes: list[str] = []
    class_counts: list[_Count] = []
    image_shape: Annotated[list[_Count], Field(min_length=3, max_length=3)] = [0, 0, 0]
    multi_label: bool = False
    tasks: list[Annotated[list[str | int], Field(min_length=2, max_length=2)]] = []
    train: _Count = 0
    val: _Count = 0
    test: _Count = 0
    mean: list[float] = []
    std: list[float] = []


class _Fields(_Typed):
    run: _Name | None = None
    experiment: _Name = "experiment"
    variant: str | None = None
    parent: _Name | None = None
    trial: int | None = None
    declaration: dict[str, Any] | None = None
    launch: dict[str, Any] | None = None
    facts: dict[str, str] = {}
    data: _Data = _Data()
    continued: _Name | None = None
    weights: dict[str, Any] | None = None
    seeds: Annotated[int, Field(ge=1)] = 1
    folds: Annotated[str, Field(pattern=r"^[1-9][0-9]*(x[1-9][0-9]*)?$")] = ""
    title: str = ""
    study: dict[str, str] | str = {}
    imported: dict[str, Any] = {}
    combined: list[dict[str, Any]] = []


class _Record(dict[str, Any]):
    """A record that was read from a file. A field that it lacks is an error of the file."""

    path: Path

    def __missing__(self, name: str) -> Any:
        raise UserError([f"{self.path}: not a complete record: {name} is missing; restore the file from a copy"])


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
        if (self.folder / "artifacts" / RECORD).is_file():
            self.artifact(RECORD)
        return self._unverified

    @cached_property
    def _unverified(self) -> dict[str, Any]:
        """The record, not compared with its digest: listings read no journals."""
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
    def kept_metrics(self) -> dict[str, float]:
        """Metric name -> last value; of a val/ metric, the value at the epoch whose weights were kept."""
        history, best = self.history, int(self.tags["best_epoch"])
        return {name: points.get(best, points[max(points)]) if name.startswith("val/") else points[max(points)]
                for name, points in history.items()}  # fmt: skip

    @property
    def tags(self) -> dict[str, str]:
        """Tag name -> last value."""
        events = (event for _, event in journal.read(self.folder) if event["event"] == "tags")
        return {name: text for event in events for name, text in event["values"].items()}

    @property
    def params(self) -> dict[str, str]:
        """Dotted name -> declared value, as recorded."""
        values: dict[str, str] = self._first("params")["values"]
        return values

    @property
    def precision(self) -> str:
        """fp32, bf16 or fp16, of its forward passes; "auto" if each GPU chooses. What a CPU has chosen is kept."""
        declared, facts = self.record["declaration"], self.record["facts"]
        if declared.get("quantize"):
            return "fp32"
        chosen: str = declared.get("precision", "auto")
        return chosen if chosen != "auto" or "hardware.gpu" in facts else facts.get("precision", chosen)

    @property
    def opening(self) -> dict[str, Any]:
        """The journal's first event "run": experiment, name, description, parent."""
        return self._first("run")

    def _first(self, kind: str) -> dict[str, Any]:
        found = next((event for _, event in journal.read(self.folder) if event["event"] == kind), None)
        if found is None:
            raise UserError([f"{self.folder / journal.FILE}: not the journal of a run: it has no event {kind!r}"])
        return found

    def artifact(self, name: str) -> Path:
        """Returns the path of an artifact. Raises UserError if it is missing or damaged."""
        if wrong := journal.damage(self.folder, name):
            raise UserError([f"{wrong}; restore it from a copy"])
        return self.folder / "artifacts" / name

    @property
    def confusion(self) -> tuple[list[str], coo_array[Any]] | None:
        """(classes, confusion matrix int64 [C, C], rows are true classes) of the test split; None if not evaluated."""
        import csv

        import numpy as np
        from scipy.sparse import coo_array

        pairs = (self.folder / "artifacts" / CONFUSION_PAIRS).exists()
        if not pairs and not (self.folder / "artifacts" / CONFUSION).exists():
            return None
        with self.artifact(CONFUSION_PAIRS if pairs else CONFUSION).open(newline="") as stream:
            (_, *head), *rows = csv.reader(stream)
        if not pairs:
            return head, coo_array(np.array([row[1:] for row in rows], dtype=np.int64))
        classes = list(self.record["data"]["classes"])
        place = {name: label for label, name in enumerate(classes)}
        where = [place[row[0]] for row in rows], [place[row[1]] for row in rows]
        counts = np.array([row[2] for row in rows], dtype=np.int64)
        return classes, coo_array((counts, where), shape=(len(classes), len(classes)))

    @property
    def compression(self) -> dict[str, dict[str, Any]]:
        """{"before": ..., "after": ...}: parameters, nonzero, flops and latency_ms; empty if it was not compressed."""
        if not (self.folder / "artifacts" / COMPRESSION).exists():
            return {}
        found: dict[str, dict[str, Any]] = json.loads(self.artifact(COMPRESSION).read_text())
        return found

    @property
    def is_tested(self) -> bool:
        """Whether the confusion matrix of the test split is on record."""
        return any((self.folder / "artifacts" / name).exists() for name in (CONFUSION, CONFUSION_PAIRS))

    @property
    def multi_label(self) -> bool:
        """Whether the run was trained on multi-label images."""
        return bool(self.record["data"].get("multi_label"))  # old records lack this key

    @property
    def tasks(self) -> Blocks:
        """The blocks of several tasks; () for a single one."""
        return tuple((str(name), int(classes)) for name, classes in self.record["data"].get("tasks", ()))

    def refuse_tasks(self, what: str) -> None:
        """Raise UserError if the run has several tasks. what: does not support them, with a verb: exports do."""
        if self.tasks:
            raise UserError([f"{self.id} has several tasks, which {what} not support"])

    @property
    def seconds(self) -> float:
        """Training time in seconds, computed from images per second; time between an interruption and its resume does
        not count."""
        rates = self.history.get("images_per_second", {}).values()
        # a rate is 0 if the run was resumed at an epoch's end
        return sum((float(self.record["data"]["train"]) / rate for rate in rates if rate), start=0.0)

    @classmethod
    def load(cls, run: str | Path) -> Self:
        """Load a run by id, by a unique prefix of its id, by MLflow's id, as `latest` or `EXPERIMENT/latest`, or from
        a folder. Raises UserError."""
        folder = Path(run)
        if (folder / journal.FILE).exists():
            return cls(target(folder) if folder.name == LATEST else folder)
        known = {path.name: path for path in sorted(paths.runs().glob("*")) if (path / journal.FILE).exists()}
        whole = [name for name, path in known.items() if (path / "artifacts" / RECORD).exists()]
        if str(run).endswith(f"/{LATEST}") and (newest := next(cls.of_experiment(str(run)[: -len(LATEST) - 1]), None)):
            return newest
        if str(run) == LATEST and known:  # a process that was killed early leaves a folder without a record
            return cls(known[max(whole or known, key=begun)])
        if re.fullmatch("[0-9a-f]{32}", str(run)):
            mirrors = {name: path / MIRROR for name, path in known.items() if (path / MIRROR).exists()}
            if found := [name for name, mirror in mirrors.items() if str(run) in mirror.read_text(errors="replace")]:
                return cls(known[found[0]])
        matching = [name for name in known if str(run) and name.startswith(str(run))]
        # the name of an experiment does not match runs of another one: digits_cnn, digits_cnn-wide
        found = [name for name in matching if not named_in(name).startswith(f"{run}-")]
        if str(run) in known:
            return cls(known[str(run)])
        if len(found) == 1:
            return cls(known[found[0]])
        if found:
            raise UserError([f"{run}: {len(found)} run ids start with this; use one of {', '.join(found[:5])}"])
        if named := [name for name, path in known.items() if _is_named(path, str(run))]:
            raise UserError([f"{run}: this is the name of {', '.join(named[:5])}; use the id"])
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
        """Yield the runs of this parent (seeds, folds, or a study), the latest first; damaged ones are reported and
        skipped."""
        below = (run for run in self.of_experiment(self.record["experiment"]) if _parent_of(run) in (self.id, ...))
        return intact(below)


def _is_named(folder: Path, name: str) -> bool:
    """Whether the user has given a run this name."""
    path = folder / LABELS
    return path.exists() and f'"mlflow.runName":{json.dumps(name)}' in path.read_text(errors="replace")


R = TypeVar("R", bound=RecordedRun)


def intact(runs: Iterable[R]) -> Iterator[R]:
    """Yield the runs whose record and journal can be read. Each other one is reported once by this process, so that a
    damaged run never prevents work with the others."""
    for run in runs:
        try:
            _ = run.record, run.status
        except (UserError, OSError) as damage:
            _report_once(f"{run.id} is skipped: {damage}")
        else:
            yield run


@functools.cache
def _report_once(line: str) -> None:
    tell(line)


def last(history: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Returns metric name -> last value."""
    return {name: points[max(points)] for name, points in history.items()}


def _experiment_of(run: RecordedRun) -> str:
    try:
        return str(run._unverified["experiment"])
    except UserError:
        return named_in(run.id)


def _parent_of(run: RecordedRun) -> Any:
    """Id of the parent, None without one, or ... if the record cannot be read."""
    try:
        return run._unverified.get("parent")
    except UserError:
        return ...


def read_record(path: Path) -> dict[str, Any]:
    """Read a record.json. Raises UserError if it is missing, damaged or of an unsupported version; the same is raised
    on access to a field that it lacks."""
    if not path.is_file():
        raise UserError([f"{path}: file not found"])
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError([f"{path}: not a record: {error}; restore the file from a copy"]) from None
    version = record.get("labbook") if isinstance(record, dict) else None
    if not isinstance(version, int) or version not in range(1, VERSION + 1):
        newer = isinstance(version, int) and version > VERSION
        advice = "use the labbook that wrote it" if newer else "it is too old for this labbook"
        raise UserError([f"{path}: the record has version {version}, this labbook writes version {VERSION}: {advice}"])
    try:
        _Fields.model_validate(record)
    except ValidationError as error:
        wrong = [f"{path}: not a record: {dotted(each['loc'])}: {each['msg']}" for each in error.errors()]
        raise UserError(wrong) from None
    record = record if version == VERSION else migrated_record(record) | {"labbook": VERSION}
    return _requiring(
        {name: _requiring(value, path) if isinstance(value, dict) else value for name, value in record.items()}, path
    )


def _requiring(fields: dict[str, Any], path: Path) -> _Record:
    """The fields; one that is missing is an error of the file at `path`."""
    made = _Record(fields)
    made.path = path
    return made


def holds_others(record: Mapping[str, Any]) -> bool:
    """Whether a record belongs to the parent of several seeds or folds or of a study, which does not train itself."""
    return any(name in record for name in ("seeds", "folds", "study"))


def refuse_combined(run: RecordedRun) -> None:
    """Raises UserError for an ensemble or a soup, which is made of other runs instead of being trained."""
    if run.record.get(COMBINED):
        members = ", ".join(member["run"] for member in run.record[COMBINED])
        raise UserError([f"{run.id} was made of the runs {members}, and not trained; make it again instead"])


def with_children(runs: Sequence[R]) -> list[R]:
    """The runs, each parent followed by the runs below it; each run once."""
    families = ([run, *(run.children() if holds_others(run.record) else ())] for run in runs)
    return list({run.id: run for family in families for run in family}.values())


def in_study(run: RecordedRun) -> bool:
    """Whether a run is a study or one of its trials, which are resumed by their search."""
    parent = parent_of(run)
    return run.record.get("trial") is not None or (parent or run).record.get("study") is not None


def parent_of(run: R) -> R | None:
    """The parent of a run, which may have several seeds or be a study; None without one, or if it is damaged."""
    above = run.record.get("parent")
    folder = paths.runs() / above if above else None
    return next(intact([type(run)(folder)]), None) if folder and folder.exists() else None
