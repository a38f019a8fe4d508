"""Exports of neptune-exporter, the program with which Neptune has its users leave: Parquet files in a long form.

Its README and `src/neptune_exporter/model.py` (github.com/neptune-ai/neptune-exporter) define the columns: project_id,
run_id, attribute_path, attribute_type (float, int, string, bool, datetime, string_set, float_series, string_series,
histogram_series, file, file_series), step (decimal), timestamp (ms, UTC), and int_value, float_value, string_value,
bool_value, datetime_value, string_set_value, file_value, histogram_value, of which the type says which one is set. A
run is in RUN_part_0.parquet and further parts, in a folder for each project.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from core.common.errors import UserError
from core.importing.log import Found, Log, Origin, Point, Stored, labeled, placed, wanted
from core.importing.parquet import NEPTUNE, columns
from core.record.labels import NAME, NOTE

KIND = "Neptune"
_COLUMNS = ("project_id", *NEPTUNE, "datetime_value", "string_set_value")
_VALUES = {"float": "float_value", "int": "int_value", "string": "string_value", "bool": "bool_value",
           "datetime": "datetime_value", "string_set": "string_set_value"}  # fmt: skip
_FACTS = {"hostname": "host", "owner": "user"}
_PART = re.compile(r"_part_\d+$")


@dataclass(frozen=True)
class NeptuneSource:
    """The Parquet files of one run, or of several."""

    files: tuple[Path, ...]

    @property
    def place(self) -> str:
        return str(self.files[0])

    def read(self, only: Collection[str]) -> Found:
        rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for file in self.files:
            for row in columns(file, _COLUMNS).to_pylist():
                rows.setdefault((row.get("project_id") or "", row["run_id"]), []).append(row)
        if not rows:
            raise UserError([f"{self.place}: contains no rows"])
        found: list[tuple[Origin, Log]] = []
        left = []
        for (project, run), own in rows.items():
            log = _log(project, own)
            name = log.labels.get(NAME) or run
            words = frozenset((run, name, project, log.experiment))
            if not log.points:
                left.append(f"{self.place}: the run {run} has no series of numbers")
            elif wanted(words, only):
                place = f"Neptune run {project}/{run}".replace("//", "/")
                found.append((Stored(name, place, log.digest, words), log))
        return found, left


def grouped(files: Iterable[Path]) -> list[NeptuneSource]:
    """The files, those of one run together."""
    runs: dict[Path, list[Path]] = {}
    for file in files:
        runs.setdefault(file.with_name(_PART.sub("", file.stem)), []).append(file)
    return [NeptuneSource(tuple(own)) for own in runs.values()]


def _log(project: str, rows: Iterable[Mapping[str, Any]]) -> Log:
    params: dict[str, str] = {}
    system: dict[str, Any] = {}
    points: list[Point] = []
    skipped: Counter[str] = Counter()
    for row in rows:
        path, kind = row["attribute_path"], row["attribute_type"]
        if kind in _VALUES:
            value = row.get(_VALUES[kind])
            if path.startswith("sys/"):
                system[path.removeprefix("sys/")] = value
            elif value is not None:
                params[path] = ", ".join(value) if isinstance(value, list) else str(value)
        elif kind != "float_series":
            skipped[f"{kind} values"] += 1
        elif path.startswith("monitoring/"):
            skipped["values of monitoring/, of the machine"] += 1
        elif row["float_value"] is None or row["step"] is None or row["step"] != int(row["step"]):
            skipped["values without an integer step"] += 1
        else:
            at = row["timestamp"]
            points.append(Point(path, int(row["step"]), row["float_value"], None, _milliseconds(at)))
    found, notes = placed(_with_epochs(points))
    notes += [f"skipped {count} {what}" for what, count in sorted(skipped.items())]
    labels = {labeled(tag): "true" for tag in system.get("tags") or ()}
    name = system.get("name") or system.get("custom_run_id") or ""
    labels |= {NAME: str(name), NOTE: str(system.get("description") or "")}
    return Log(
        KIND,
        params,
        tuple(found),
        tuple(notes),
        labels,
        {fact: str(system[field]) for field, fact in _FACTS.items() if system.get(field)},
        "FAILED" if system.get("failed") else "FINISHED",
        _milliseconds(system.get("creation_time")),
        experiment=project.rpartition("/")[2],
    )


def _with_epochs(points: list[Point]) -> list[Point]:
    """The points, with the epoch that a series named epoch has at the same step."""
    own = [point for point in points if point.name.rpartition("/")[2] == "epoch"]
    epochs = {point.step: int(point.value) for point in own if abs(point.value) < 2**53}
    others = [point for point in points if point.name.rpartition("/")[2] != "epoch"] or points
    return [replace(point, epoch=epochs.get(point.step)) for point in others]


def _milliseconds(at: Any) -> int | None:
    return int(at.timestamp() * 1000) if isinstance(at, datetime) else None
