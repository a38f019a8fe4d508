"""Reading and validation of tables of images and labels. All errors are reported at once."""

from __future__ import annotations

import math
import os
import posixpath
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.common.errors import DataError
from core.common.text import did_you_mean
from data.reading import archive, disk, weights
from data.reading.columns import EXPECTED, read_csv, read_parquet, refuse_large
from data.reading.layout import WHOLE
from data.reading.progress import printable
from data.reading.splits import split_of
from data.reading.tables import parts_of, refuse_irregular

MOST_ADVISED = 3  # rows with a mistake that an option mends, which are listed one by one
_TASK = "task "  # begins the role of a column with the labels of a task
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|[\\/]{2}")


@dataclass(frozen=True)
class Columns:
    """Names of the columns.  header: whether a CSV file has them; otherwise they are 1, 2, ...

    split, group, weight: None if the column is not used.  multi_label: an image has any number of labels, as a list or
    as text with the separator between them.  tasks: columns with a label of each of several tasks, instead of label.
    """

    path: str
    label: str
    split: str | None
    group: str | None
    multi_label: bool = False
    separator: str = "|"
    header: bool = True
    weight: str | None = None
    tasks: tuple[str, ...] = ()

    def named(self) -> dict[str, str]:
        """Role -> name of the columns that are used."""
        labels = {f"{_TASK}{name}": name for name in self.tasks} or {"label": self.label}
        roles = {"path": self.path, **labels, "split": self.split, "group": self.group, "weight": self.weight}
        return {role: name for role, name in roles.items() if name is not None}


@dataclass(frozen=True)
class Row:
    """A row of the table.

    number: of the row, from 1 below the header.  name: normalized path of the image as in the table.  file: absolute
    path of the image, links resolved.  labels: one label, or any number if multi-label; of several tasks, one each, ""
    if it is missing.  split: train, val, test or WHOLE. If a cell is invalid: no labels, split "", group None.  weight:
    NaN if it is missing or invalid; None if the table has none.
    """

    number: int
    name: str
    file: Path
    status: os.stat_result
    labels: tuple[str, ...]
    split: str
    group: str | None
    weight: float | None = None


class _Wrong(ValueError):
    """The value of a cell is invalid.  of: the cell.  what: the reason, the same for every cell with this mistake."""

    def __init__(self, of: str, what: str):
        super().__init__(f"{of} {what}")
        self.what = what


class OfOneRow(str):
    """An error line about a single row of a table, without which the others can be used."""


def read(table: Path, columns: Columns, allow_outside: bool, images: Path) -> tuple[list[Row], list[str]]:
    """The rows with a valid image, sorted by name, and an error line for each invalid row.

    images: folder to which the paths are relative. Raises DataError if the table has no rows, cannot be read or lacks
    a column.
    """
    content, named = _content(table, columns)
    folder = images
    if not folder.is_dir():
        raise DataError([f"{folder} is not a folder; --data.image_dir names that of the images"])
    locate = _locator(folder, allow_outside)
    rows: list[Row] = []
    wrong: dict[int, list[_Wrong]] = {}
    seen: dict[Path, int] = {}
    for number, cells in enumerate(zip(*content.values(), strict=True), start=1):
        row, complaints = _row(number, dict(zip(content, cells, strict=True)), columns, folder, locate)
        if row and (other := seen.setdefault(row.file, number)) != number:
            complaints.append(
                _Wrong(printable(row.name), f"is also the image of {named(other)}; remove one of the rows")
            )
        elif row:
            rows.append(row)
        if complaints:
            wrong[number] = complaints
    rows.sort(key=lambda row: row.name)
    return rows, [*_lines(wrong, number, named), *_straddling(rows), *_wrong_splits(rows), *_zero_weights(rows)]


def paths(table: Path, column: str = "path") -> list[str]:
    """The paths of a table, whatever its other columns. Raises DataError."""
    refuse_irregular(table)
    with disk.as_data_error(table):
        raw = table.read_bytes()
    content = read_parquet(raw, table, {column}) if table.suffix.lower() == ".parquet" else read_csv(raw, table)
    if wrong := list(_missing("path", column, content.column_names)):
        raise DataError([f"{table}: {line}" for line in wrong])
    refuse_large(table, content, {"path": column})
    cells = content.column(column).to_pylist()
    if any(not isinstance(cell, str | None) for cell in cells):
        raise DataError([f"{table}: column {column} has the type {content.column(column).type}; text is needed"])
    return [cell for cell in cells if cell]


def _lines(wrong: dict[int, list[_Wrong]], count: int, named: Callable[[int], str]) -> Iterator[str]:
    """A line for each mistake that all rows share or that an option mends, and for each row with others.

    count: number of rows.  named: number -> name of a row.
    """
    kinds = Counter(one.what for complaints in wrong.values() for one in complaints)
    shared = {what for what, times in kinds.items() if times == count > 1 or (times > MOST_ADVISED and "--" in what)}
    for what in kinds:
        if what in shared:
            example = next(one for complaints in wrong.values() for one in complaints if one.what == what)
            if kinds[what] == count:
                yield f"all {count:,} rows: {example}, and likewise in every other row"
            else:
                yield f"{kinds[what]:,} of {count:,} rows: {example}, and likewise in the others"
    for number, complaints in wrong.items():
        if own := [str(one) for one in complaints if one.what not in shared]:
            yield OfOneRow(f"{named(number)}: {'; '.join(own)}")


def _content(table: Path, columns: Columns) -> tuple[dict[str, list[Any]], Callable[[int], str]]:
    """(role -> cells, number -> name of a row) of a table, or of all its part-files. Raises DataError."""
    if not table.is_dir():
        cells = _cells(table, columns)
        if not cells:
            raise DataError([f"{table} has no rows", EXPECTED])
        return cells, lambda number: f"row {number}"
    found: list[tuple[Path, dict[str, list[Any]]]] = []
    wrong: list[str] = []
    for part in parts_of(table):
        try:
            refuse_irregular(part)
            if part.stat().st_size and (cells := _cells(part, columns)):  # Spark writes parts without rows, too
                found.append((part, cells))
        except DataError as error:
            wrong += [line for line in error.lines if line != EXPECTED]
    if found and (other := [part for part, cells in found if cells.keys() != found[0][1].keys()]):
        wrong.append(f"{other[0]} has other columns than {found[0][0].name}")
    if wrong or not found:
        raise DataError(wrong or [f"{table} has no rows in {len(parts_of(table)):,} part-files", EXPECTED])
    ends = np.cumsum([len(cells["path"]) for _, cells in found])

    def named(number: int) -> str:
        at = int(np.searchsorted(ends, number))
        return f"{found[at][0].name} row {number - (int(ends[at - 1]) if at else 0)}"

    return {role: [cell for _, cells in found for cell in cells[role]] for role in found[0][1]}, named


def _cells(table: Path, columns: Columns) -> dict[str, list[Any]]:
    """Role -> cells; empty if there are no rows. Raises DataError."""
    with disk.as_data_error(table):
        raw = table.read_bytes()
    is_parquet = table.suffix.lower() == ".parquet"
    content = (
        read_parquet(raw, table, set(columns.named().values())) if is_parquet else read_csv(raw, table, columns.header)
    )
    known = content.column_names
    named = dict(_present(columns, known))
    wrong = [line for role, name in named.items() for line in _missing(role, name, known)]
    if wrong:
        raise DataError([*(f"{table}: {line}" for line in wrong), EXPECTED])
    if not content.num_rows:
        return {}
    refuse_large(table, content, named)
    cells = {role: content.column(name).to_pylist() for role, name in named.items()}
    if columns.multi_label and table.suffix.lower() == ".csv":  # an empty cell of a CSV file is an empty list
        cells["label"] = [[] if cell is None else cell for cell in cells["label"]]
    return cells


def _present(columns: Columns, known: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(role, name) of the columns to read. split and group are optional, unless a column has a similar name, which may
    be misspelled."""
    for role, name in columns.named().items():
        optional = role in ("split", "group") and name == role
        if name in known or not optional or did_you_mean(name, known):
            yield role, name


def _missing(role: str, name: str, known: Sequence[str]) -> Iterator[str]:
    if known.count(name) > 1:
        yield f"the table has {known.count(name)} columns named {name}; keep one of them"
    elif name not in known:
        hint = did_you_mean(name, known) or f"; the columns are {', '.join(map(printable, known))}"
        none = ", or none" if role in ("split", "group", "weight") else ""
        option = "tasks A,B" if role.startswith(_TASK) else f"{role}_column NAME{none}"
        yield f"the table has no column {name}{hint} (set it with --data.{option})"


def _row(
    number: int, cells: dict[str, Any], columns: Columns, folder: Path, locate: Callable[[str], Path]
) -> tuple[Row | None, list[_Wrong]]:
    """(the row, or None without a valid image; its errors)"""
    wrong: list[_Wrong] = []

    def taken(read: Callable[[Any], Any], cell: Any, otherwise: Any = None) -> Any:
        try:
            return read(cell)
        except _Wrong as error:
            wrong.append(error)
            return otherwise

    path = taken(lambda cell: _relative(_text("path", cell), folder), cells["path"])
    file = taken(locate, path) if path else None
    status = taken(_status, (path, file)) if file else None
    labels = taken(lambda cell: _labels(cell, columns), cells["label"], ()) if "label" in cells else None
    if labels is None:
        labels = taken(_labels_of_tasks, [cells[f"{_TASK}{name}"] for name in columns.tasks], ())
    split = taken(_split, cells["split"], "") if "split" in cells else WHOLE
    group = taken(lambda cell: _text("group", cell), cells["group"]) if "group" in cells else None
    weight = taken(lambda cell: _weight(cell, split), cells["weight"], math.nan) if "weight" in cells else None
    if file is None or status is None:
        return None, wrong
    return Row(number, posixpath.normpath(path), file, status, labels, split, group, weight), wrong


def _text(role: str, cell: Any) -> str:
    """The text of a cell, stripped of whitespace; integers are accepted."""
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    if cell is None or cell != cell or (isinstance(cell, str) and not cell.strip()):
        raise _Wrong(f"the {role}", "is missing")
    if not isinstance(cell, str):
        raise _Wrong(f"{role}: {cell!r}", "is neither text nor an integer")
    return cell.strip()


def on_this_system(path: str, folder: Path) -> str:
    """A path that was written on Windows, with slashes; here, a backslash can be part of a name."""
    return path.replace("\\", "/") if "\\" in path and not os.path.lexists(folder / path) else path


def _relative(path: str, folder: Path) -> str:
    """An absolute path inside the folder of the table as a relative one, and a path written on Windows with slashes;
    other paths as they are."""
    path = on_this_system(path, folder)
    if not os.path.isabs(path) or ".." in path.split("/"):
        return path
    for around in (os.path.abspath(folder), os.path.realpath(folder)):
        if path.startswith(f"{around}/"):
            return path.removeprefix(f"{around}/").lstrip("/")
    return path


def _labels(cell: Any, columns: Columns) -> tuple[str, ...]:
    if not columns.multi_label:
        if isinstance(cell, list):
            raise _Wrong(printable(str(cell))[:100], "is a list of labels; set --data.multi_label true")
        name = _text("label", cell)
        if columns.separator in name:
            advice = "for multi-label data, set --data.multi_label true; otherwise set another --data.separator"
            raise _Wrong(printable(name), f"is more than one label; {advice}")
        return (name,)
    cells = cell.split(columns.separator) if isinstance(cell, str) else cell if isinstance(cell, list) else [cell]
    names = tuple(sorted(_text("label", one) for one in cells))
    if len(set(names)) < len(names):
        raise _Wrong(f"the labels {printable(', '.join(names))}", "contain a label twice")
    return names


def _labels_of_tasks(cells: Sequence[Any]) -> tuple[str, ...]:
    """The label of each task, "" for an empty cell."""
    blank = [cell is None or cell != cell or (isinstance(cell, str) and not cell.strip()) for cell in cells]
    if all(blank):
        raise _Wrong("the labels", "of all tasks are missing; remove the row")
    return tuple("" if empty else _text("label", cell) for cell, empty in zip(cells, blank, strict=True))


def _split(cell: Any) -> str:
    name = _text("split", cell)
    if (split := split_of(name)) is None:
        raise _Wrong(printable(name), "is not a split; use train, val or test")
    return split


def _weight(cell: Any, split: str) -> float:
    """The weight of an image; NaN if it is missing for an image of val or test, which are not sampled."""
    missing = cell is None or (isinstance(cell, str) and not cell.strip())
    if missing and split in ("val", "test"):
        return math.nan
    try:
        weight = float(_text("weight", cell) if isinstance(cell, str | None) else cell)
    except (TypeError, ValueError) as error:
        if isinstance(error, _Wrong):
            raise
        raise _Wrong(f"weight: {printable(str(cell))[:100]}", "is not a number") from None
    if reason := weights.mistake(weight):
        raise _Wrong(f"weight: {weight:g}", reason)
    return weight


def _locator(folder: Path, allow_outside: bool) -> Callable[[str], Path]:
    real = Path(os.path.realpath(folder))

    def locate(path: str) -> Path:
        shown = printable(path)
        if _REMOTE.match(path):
            raise _Wrong(shown, "is not a local file; download it and use the path of the file")
        leaves = path[0] in "/\\" or path[1:2] == ":" or ".." in re.split(r"[\\/]", path)
        if leaves and not allow_outside:
            raise _Wrong(shown, f"is outside {folder}; to allow this, set --data.allow_outside true")
        try:
            file = Path(os.path.realpath(folder / path))
        except (OSError, ValueError):
            raise _Wrong(shown, "does not exist") from None
        if not allow_outside and not file.is_relative_to(real):
            raise _Wrong(shown, f"is a link to a file outside {folder}; to allow this, set --data.allow_outside true")
        return file

    return locate


def _status(named: tuple[str, Path]) -> os.stat_result:
    shown = printable(named[0])
    try:
        status = named[1].stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise _Wrong(shown, "does not exist") from None
    except OSError as error:
        raise _Wrong(shown, f"cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise _Wrong(shown, "is not a regular file")
    if status.st_size > archive.MEMBER_LIMIT:
        raise _Wrong(shown, f"has {status.st_size:,} bytes, more than the limit of {archive.MEMBER_LIMIT:,}")
    return status


def _straddling(rows: Iterable[Row]) -> Iterator[str]:
    splits: dict[str, set[str]] = {}
    for row in rows:
        if row.group is not None and row.split:
            splits.setdefault(row.group, set()).add(row.split)
    for group, found in sorted(splits.items()):
        if len(found) > 1:
            splits_found = " and ".join(sorted(found))
            yield f"group {printable(group)} is in {splits_found}; all images of a group must be in the same split"


def _wrong_splits(rows: Sequence[Row]) -> Iterator[str]:
    present = {row.split for row in rows} - {WHOLE, ""}
    for split in ("train", "test") if present else ():
        if split not in present:
            yield f"no row has the split {split}; add some, or create new splits with --data.split_column none"


def _zero_weights(rows: Sequence[Row]) -> Iterator[str]:
    found = [row.weight for row in rows if row.split in weights.TRAINED]
    if found and all(weight == 0 for weight in found):
        yield "the weights of all images for training are 0"
