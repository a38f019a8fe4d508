"""CSV logs: one row for each epoch or step, one column for each metric; cells may be empty.

Lightning's CSVLogger, timm's summary.csv, Keras' CSVLogger and TensorBoard's downloads have this format.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from core.common.errors import UserError
from core.importing.log import Log, Point, placed, settings

KIND = "CSV"
STEPS, EPOCHS, TIMES = ("step", "global_step", "iteration", "iter"), ("epoch", "epochs"), ("wall time", "wall_time")
BESIDE = {"metrics.csv": "hparams.yaml", "summary.csv": "args.yaml"}  # Lightning's and timm's
_MISSING = {"", "none", "null", "na", "n/a"}
_MOST = 2**62  # MLflow keeps a step in 64 bits


class NoLog(UserError):
    """The file is a table, but not a log."""


def beside(path: Path) -> Path:
    """Returns the path at which the settings of a log would be: that of Lightning or timm, or the suffix .yaml."""
    return path.with_name(BESIDE.get(path.name, f"{path.stem}.yaml"))


def read(path: Path) -> Log:
    """Read a CSV log. Raises NoLog without a column of epochs or steps, UserError if it is empty or has no numbers."""
    heads, rows, notes = _cells(path)
    axes = {kind: _column(heads, names) for kind, names in (("step", STEPS), ("epoch", EPOCHS), ("time", TIMES))}
    if axes["step"] is None and axes["epoch"] is None:
        raise NoLog([f"{path}: no column named epoch or step"])
    used = set(axes.values())
    columns: dict[str, dict[int, float]] = {}
    for place, head in enumerate(heads):
        if place in used or not head:
            continue
        try:
            columns[_metric(path, head)] = dict(_numbers(row[place] for row in rows))
        except ValueError:
            notes.append(f"skipped column {head}, which contains text")
    points = list(_points(rows, axes, columns))
    if not points:
        raise UserError([f"{path}: {'contains no numbers' if rows else 'contains no rows below the header'}"])
    if lost := sum(len(values) for values in columns.values()) - len(points):
        notes.append(f"skipped {lost} values in rows without an integer epoch or step")
    found, more = placed(points)
    return Log(KIND, settings(beside(path)), tuple(found), (*notes, *more))


def _cells(path: Path) -> tuple[list[str], list[list[str]], list[str]]:
    """(header, rows with as many cells as the header, notes). Raises UserError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        lines = list(csv.reader(text.splitlines(keepends=True), delimiter=max(",;\t", key=first.count)))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError([f"{path}: is not a CSV file in UTF-8: {error}"]) from None
    lines = [line for line in lines if any(cell.strip() for cell in line)]
    if not lines:
        raise UserError([f"{path}: is empty"])
    heads, *rows = ([cell.strip() for cell in line] for line in lines)
    if twice := sorted({head for head in heads if head and heads.count(head) > 1}):
        raise UserError([f"{path}: has several columns named {', '.join(twice)}"])
    notes = []
    if rows and len(rows[-1]) < len(heads) and not text.endswith(("\n", "\r")):
        rows.pop()
        notes.append("skipped the last row, which is incomplete")
    return heads, [(row + [""] * len(heads))[: len(heads)] for row in rows], notes


def _column(heads: Sequence[str], names: Sequence[str]) -> int | None:
    lower = [head.lower() for head in heads]
    return next((lower.index(name) for name in names if name in lower), None)


def _metric(path: Path, head: str) -> str:
    """The name of a metric: the header of its column, or the file's name for a column Value, which TensorBoard
    downloads."""
    return path.stem if head == "Value" else head


def _points(
    rows: Sequence[Sequence[str]], axes: Mapping[str, int | None], columns: Mapping[str, Mapping[int, float]]
) -> Iterator[Point]:
    def cell(row: Sequence[str], kind: str) -> str:
        place = axes[kind]
        return "" if place is None else row[place]

    for number, row in enumerate(rows):
        step, epoch = _whole(cell(row, "step")), _whole(cell(row, "epoch"))
        at = step if step is not None else epoch
        if at is None or (axes["step"] is not None and step is None):
            continue
        for name, values in columns.items():
            if number in values:
                yield Point(name, at, values[number], epoch, _time(cell(row, "time")))


def _numbers(cells: Iterator[str]) -> Iterator[tuple[int, float]]:
    """Yield (row, value) for each cell with a number. Raises ValueError for text."""
    for row, cell in enumerate(cells):
        if cell.lower() not in _MISSING:
            yield row, _number(cell)


def _number(text: str) -> float:
    if "_" in text:  # float would accept 1_000
        raise ValueError(text)
    return float(text)


def _whole(text: str) -> int | None:
    """The integer in a cell, such as 3 or 3.0; None for anything else."""
    try:
        value = int(text) if text.isascii() and text.isdigit() else _number(text)
    except ValueError:
        return None
    return int(value) if math.isfinite(value) and abs(value) < _MOST and value == int(value) else None


def _time(text: str) -> int | None:
    """Seconds since 1970 -> ms."""
    try:
        value = _number(text)
    except ValueError:
        return None
    return int(value * 1000) if math.isfinite(value) and 0 < value < 1e11 else None
