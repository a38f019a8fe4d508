"""Exports of Weights & Biases: the history of a run as Parquet or CSV, with the files of the run beside it.

The Parquet file is that of the artifact RUN-history (type wandb-history) or of `run.history().to_parquet`; both have
the columns _step, _runtime (s) and _timestamp (s since 1970), and one for each metric
(https://docs.wandb.ai/support/models/articles/why-are-steps-missing-from-a-csv-metric-). The files of a run are
config.yaml ({name: {value: ...}}), wandb-summary.json (last values) and wandb-metadata.json (code and machine).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from core.common.errors import UserError
from core.common.text import few
from core.importing.log import MOST_SETTINGS, Log, Point, json_in, placed, settings
from core.importing.parquet import columns

KIND = "W&B"
CONFIG, SUMMARY, METADATA = "config.yaml", "wandb-summary.json", "wandb-metadata.json"
_STEPS = ("trainer/global_step", "global_step", "_step")  # the first that every row has; Lightning's logger has its own
_FACTS = {"program": "source", "codePath": "source", "host": "host", "python": "python", "username": "user"}
_ID = re.compile(r"(?:^|/)(?:offline-)?run-(?:\d{8}_\d{6}-(\w+)|(\w+)-history)")


def is_history(path: Path) -> bool:
    """Whether a CSV file is a history of W&B, by its header."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as stream:
            return "_step" in re.split("[,;\t]", stream.readline(2**16).replace('"', "").rstrip("\r\n"))
    except OSError:
        return False


def beside(file: Path, alone: bool) -> list[tuple[str, Path]]:
    """(its name, path) of each file of a run that is beside its history. alone: whether the folder has one run; those
    in `files/`, where W&B itself keeps them, and in the folder itself are of this run then. A NAME.yaml is of
    NAME.parquet."""
    own = file.with_suffix(".yaml")
    found = {CONFIG: own} if own.is_file() else {}
    for folder in (file.parent, file.parent / "files") if alone else ():
        for name in (CONFIG, SUMMARY, METADATA):
            if (folder / name).is_file():
                found.setdefault(name, folder / name)
    return list(found.items())


def id_of(file: Path) -> str:
    """W&B's id of a run, if the names of the folders around its history have it."""
    found = _ID.search(file.as_posix())
    return (found[1] or found[2]) if found else ""


def read(parts: Sequence[tuple[str, Path]]) -> Log:
    """Read a run. parts: ("", path) of each file of its history, then (name, path) of each file beside it. Raises
    UserError if there are no numbers."""
    histories, others = [path for name, path in parts if not name], {name: path for name, path in parts if name}
    points: list[Point] = []
    notes: list[str] = []
    for path in histories:
        own, skipped = _history(path)
        points += own
        notes += skipped
    points += _last_values(others[SUMMARY], points) if SUMMARY in others else []
    if not points:
        raise UserError([f"{histories[0]}: contains no numbers", *notes])
    found, more = placed(points)
    config = settings(others[CONFIG]) if CONFIG in others else {}
    metadata = _object(others[METADATA]) if METADATA in others else {}
    facts = {fact: str(metadata[name]) for name, fact in _FACTS.items() if metadata.get(name)}
    if isinstance(git := metadata.get("git"), dict) and git.get("commit"):
        facts["git.commit"] = str(git["commit"])
    return Log(KIND, _plain(config), tuple(found), (*notes, *more), facts=facts, start=_started(metadata))


def _plain(config: Mapping[str, str]) -> dict[str, str]:
    """Settings without the form of config.yaml, in which each has a value and a description."""
    bare = {name: text for name, text in config.items() if name.split(".")[0] not in ("_wandb", "wandb_version")}
    tops = {name.split(".")[0] for name in bare}
    if not all(any(name.split(".")[:2] == [top, "value"] for name in bare) for top in tops):
        return bare
    parted = {name: name.split(".", 2) for name in bare}
    return {".".join([part[0], *part[2:]]): bare[name] for name, part in parted.items() if part[1] == "value"}


def _history(path: Path) -> tuple[list[Point], list[str]]:
    """(points, notes) of one file."""
    table = _table(path)
    cells = {name: own.to_pylist() for name, own in zip(table.column_names, table.columns, strict=True)}
    axis = next(
        (name for name in _STEPS if name in cells and all(_whole(cell) is not None for cell in cells[name])), ""
    )
    if not axis:
        raise UserError([f"{path}: its column _step contains cells that are no integers"])
    steps, epochs, times = (
        [_whole(cell) for cell in cells[axis]],
        [_whole(cell) for cell in cells.get("epoch", [None] * table.num_rows)],
        [_milliseconds(cell) for cell in cells.get("_timestamp", [None] * table.num_rows)],
    )
    points, text = [], []
    for name, own in cells.items():
        if not name or name.startswith("_") or name in (*_STEPS, "epoch"):
            continue
        values = [(row, number) for row, cell in enumerate(own) if (number := _number(cell)) is not None]
        if not values and any(cell is not None for cell in own):
            text.append(name)
        points += [Point(name, steps[row] or 0, number, epochs[row], times[row]) for row, number in values]
    notes = [f"skipped columns without numbers: {few(text)}"] if text else []
    return points, notes


def _table(path: Path) -> Any:
    if path.suffix.lower() == ".parquet":
        return columns(path)
    import pyarrow as pa
    from pyarrow import csv

    try:
        return csv.read_csv(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError([f"{path}: is not a CSV file: {' '.join(str(error).split())[:200]}"]) from None


def _last_values(path: Path, points: Iterable[Point]) -> Iterator[Point]:
    """Yield the values that only the summary has, at the last step."""
    known = {point.name for point in points}
    summary = _object(path)
    step, time = _whole(summary.get("_step")), _milliseconds(summary.get("_timestamp"))
    for name, value in summary.items():
        number = _number(value)
        if not name.startswith("_") and name not in (*known, *_STEPS, "epoch") and number is not None:
            yield Point(name, step or 0, number, _whole(summary.get("epoch")), time)


def _object(path: Path) -> dict[str, Any]:
    found = json_in(path, MOST_SETTINGS)
    return found if isinstance(found, dict) else {}


def _number(cell: Any) -> float | None:
    """A number, or a text that W&B writes for one that is not finite."""
    if isinstance(cell, str) and cell in ("NaN", "Infinity", "-Infinity"):
        return float(cell)
    return float(cell) if isinstance(cell, int | float) and not isinstance(cell, bool) else None


def _whole(cell: Any) -> int | None:
    number = _number(cell)
    return int(number) if number is not None and math.isfinite(number) and number == int(number) else None


def _milliseconds(cell: Any) -> int | None:
    number = _number(cell)
    return int(number * 1000) if number is not None and 0 < number < 1e11 else None


def _started(metadata: Mapping[str, Any]) -> int | None:
    try:
        return int(datetime.fromisoformat(str(metadata.get("startedAt"))).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
