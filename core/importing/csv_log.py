"""CSV logs: one row for each epoch or step, one column for each metric; cells may be empty.

Lightning's CSVLogger, timm's summary.csv, Keras' CSVLogger and TensorBoard's downloads have this format.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from core.common.errors import UserError
from core.importing.log import Log, Point, check_file, placed, settings

KIND = "CSV"
STEPS, EPOCHS, TIMES = ("step", "global_step", "iteration", "iter"), ("epoch", "epochs"), ("wall time", "wall_time")
BESIDE = {"metrics.csv": "hparams.yaml", "summary.csv": "args.yaml"}  # Lightning's and timm's
MOST_BYTES = 2**28  # its cells take some ten times as much memory
_MISSING = {"", "none", "null", "na", "n/a"}
_COMMA = re.compile(r"^([+-]?\d+),(\d+([eE][+-]?\d+)?)$")  # 0,5 as in a spreadsheet of many countries
_MOST = 2**62  # MLflow keeps a step in 64 bits


class NoLog(UserError):
    """The file is a table, but not a log."""


def beside(path: Path) -> Path:
    """Returns the path at which the settings of a log would be: that of Lightning or timm, or the suffix .yaml."""
    return path.with_name(BESIDE.get(path.name, f"{path.stem}.yaml"))


def read(path: Path) -> list[tuple[int, Log]]:
    """Read a CSV log: (number from 1, log) of each run that was written to it.

    Raises NoLog without a column of epochs or steps, UserError if it is empty, has no numbers, or is too large.
    """
    heads, rows, notes = _cells(path)
    axes = {kind: _column(heads, names) for kind, names in (("step", STEPS), ("epoch", EPOCHS), ("time", TIMES))}
    if axes["step"] is None and axes["epoch"] is None:
        raise NoLog([f"{path}: no column named epoch or step"])
    if axes["epoch"] is not None and not any(_whole(_cell(row, axes["step"])) is not None for row in rows):
        axes["step"] = None  # a column of steps without any
    used = set(axes.values())
    columns: dict[str, dict[int, float]] = {}
    for place, head in enumerate(heads):
        if place in used or not head:
            continue
        try:
            columns[_metric(path, head)] = dict(_numbers(row[place] for row in rows))
        except ValueError:
            notes.append(f"skipped column {head}, which contains text")
    at = [_whole(_cell(row, axes["epoch"] if axes["step"] is None else axes["step"])) for row in rows]
    fits = [list(_points(rows, range(*ends), at, axes, columns)) for ends in _fits(at, columns)]
    fits = [points for points in fits if points]
    if not fits:
        raise UserError([f"{path}: {_nothing(rows, columns, at)}", *notes])
    if lost := sum(len(values) for values in columns.values()) - sum(len(points) for points in fits):
        notes.append(f"skipped {lost} values in rows without an integer epoch or step")
    logs = []
    for number, points in enumerate(fits, 1):
        found, more = placed(points)
        several = [f"run {number} of {len(fits)} that were appended to {path.name}"] if len(fits) > 1 else []
        logs.append((number, Log(KIND, settings(beside(path)), tuple(found), (*several, *notes, *more))))
    return logs


def _nothing(rows: Sequence[object], columns: Mapping[str, Mapping[int, float]], at: Sequence[int | None]) -> str:
    """Why a log has no points."""
    if not rows:
        return "contains no rows below the header"
    if any(columns.values()) and not any(place is not None for place in at):
        return "its column of epochs or steps contains no integers"
    return "contains no numbers"


def _fits(at: Sequence[int | None], columns: Mapping[str, Mapping[int, float]]) -> list[tuple[int, int]]:
    """(first row, end) of each run: one begins where the axis returns to its start, and measures something again.

    A run that was resumed returns to a later place, and its last values count.
    """
    starts, first, highest, seen = [0], None, None, set[str]()
    for number, place in enumerate(at):
        measured = {name for name, values in columns.items() if number in values}
        if place is None or not measured:
            continue
        if first is not None and highest is not None and place <= first < highest and measured & seen:
            starts.append(number)
            first, highest, seen = None, None, set()
        first = place if first is None else first
        highest = place if highest is None else max(highest, place)
        seen |= measured
    return list(zip(starts, [*starts[1:], len(at)], strict=True))


def _cells(path: Path) -> tuple[list[str], list[list[str]], list[str]]:
    """(header, rows with as many cells as the header, notes). Raises UserError."""
    check_file(path, MOST_BYTES)
    try:
        text = path.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)
        lines = list(csv.reader(text.splitlines(keepends=True), delimiter=delimiter))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError([f"{path}: is not a CSV file in UTF-8: {error}"]) from None
    lines = [line for line in lines if any(cell.strip() for cell in line)]
    if not lines:
        raise UserError([f"{path}: is empty"])
    heads, *rows = ([cell.strip() for cell in line] for line in lines)
    if twice := sorted({head for head in heads if head and heads.count(head) > 1}):
        raise UserError([f"{path}: has several columns named {', '.join(twice)}"])
    notes = []
    if again := sum(row == heads for row in rows):
        rows = [row for row in rows if row != heads]
        notes.append(f"skipped the header where it is repeated ({again} times)")
    if delimiter != ",":
        rows = [[_COMMA.sub(r"\1.\2", cell) for cell in row] for row in rows]
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
    rows: Sequence[Sequence[str]],
    numbers: range,
    at: Sequence[int | None],
    axes: Mapping[str, int | None],
    columns: Mapping[str, Mapping[int, float]],
) -> Iterator[Point]:
    for number in numbers:
        place, epoch = at[number], _whole(_cell(rows[number], axes["epoch"]))
        if place is None:
            continue
        for name, values in columns.items():
            if number in values:
                yield Point(name, place, values[number], epoch, _time(_cell(rows[number], axes["time"])))


def _cell(row: Sequence[str], place: int | None) -> str:
    return "" if place is None else row[place]


def _numbers(cells: Iterator[str]) -> Iterator[tuple[int, float]]:
    """Yield (row, value) for each cell with a number. Raises ValueError for text."""
    for row, cell in enumerate(cells):
        if cell.lower() not in _MISSING:
            yield row, _number(cell)


def _number(text: str) -> float:
    if "_" in text:  # float would accept 1_000
        raise ValueError(text)
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


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
