"""The files of a table: one .csv or .parquet file, or the part-files that several processes wrote."""

from __future__ import annotations

import stat
from pathlib import Path

from core.common.errors import DataError
from data.reading import disk
from data.reading.columns import EXPECTED

SUFFIXES = (".csv", ".parquet")
BYTES_LIMIT = 2**30  # of a file


def find(root: Path) -> Path:
    """The path of the table: `root`, or the only table in that folder; or that folder, if all tables in it are
    part-files. Raises DataError."""
    if not root.is_dir():
        refuse_irregular(root)
        if root.suffix.lower() not in SUFFIXES:
            raise DataError([f"{root} is not a .csv or .parquet file", EXPECTED])
        return root
    with disk.as_data_error(root):
        found = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if len(found) > 1 and found == parts_of(root):
        return root
    if len(found) != 1:
        names = ", ".join(path.name for path in found)
        content = f"{len(found)} tables ({names}); use --root with the path of one of them" if found else "no table"
        raise DataError([f"{root} contains {content}", EXPECTED])
    refuse_irregular(found[0])
    return found[0]


def parts_of(folder: Path) -> list[Path]:
    """The part-files of a table that several processes wrote, as Spark does: part-*.csv or part-*.parquet, in the order
    of their names."""
    with disk.as_data_error(folder):
        return sorted(path for path in folder.glob("part-*") if path.suffix.lower() in SUFFIXES)


def folder_of(table: Path) -> Path:
    """The folder to which the paths of a table are relative: of the file, or of the part-files."""
    return table if table.is_dir() else table.parent


def refuse_irregular(table: Path) -> None:
    """Raises DataError for a pipe or a device, which may never end, and for a file that is too large to be a table."""
    with disk.as_data_error(table):
        status = table.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataError([f"{table} is not a regular file"])
    if status.st_size > BYTES_LIMIT:
        raise DataError([f"{table} has {status.st_size:,} bytes, more than the limit of {BYTES_LIMIT:,}; divide it"])
