"""The rows of a prediction: kept on disk as they come, so that an interrupted prediction continues, and then written as
CSV, Parquet or JSON lines."""

from __future__ import annotations

import csv
import errno
import fcntl
import filecmp
import json
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, Self

from core.common.errors import UserError
from core.common.failpoints import failpoint
from core.common.files import replacing
from core.common.text import printable

SUFFIXES = (".csv", ".parquet", ".jsonl")
AT_ONCE = 10_000  # rows of a Parquet row group

Row = dict[str, Any]
_to_json = json.JSONEncoder().encode  # created once: json.dumps would create one for each line


class Kept:
    """Rows in FILE.rows, one JSON object in a line. A first line says what is predicted: another command is refused."""

    def __init__(self, target: Path, question: Row):
        if target.suffix.lower() not in SUFFIXES:
            raise UserError([f"--to {target}: the name must end in {', '.join(SUFFIXES)}"])
        if not target.absolute().parent.is_dir():
            raise UserError([f"--to {target}: the folder {target.parent} does not exist"])
        self.target, self.part = target, target.with_name(f"{target.name}.rows")
        if not self.part.exists():
            self._refuse_existing()
        self.question = question
        self.done: Counter[str] = Counter()  # how often each path has a row
        self.failed = self._added = self._before = 0

    def __enter__(self) -> Self:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self.part, flags, 0o644)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UserError([f"{self.part} is not a regular file; remove it, or use another --to"])
        self._stream: FileIO = open(descriptor, "ab", buffering=0)
        try:
            self._begin()
            self._before = self.done.total()
        except BaseException:
            self._stream.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with self._stream:
            os.fsync(self._stream.fileno())
        if not self._added and not self.done:
            self.part.unlink(missing_ok=True)

    def _begin(self) -> None:
        """Lock the file, count the paths that are done, and remove a torn last line. Raises UserError for rows of
        another command, and OSError."""
        try:
            fcntl.lockf(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError([f"--to {self.target}: another process is writing this file"]) from None
        whole, asked = 0, self.question
        with self.part.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    row = _row(line)
                except ValueError:
                    raise UserError([f"{self.part}: line {number} is damaged; remove the file"]) from None
                if number == 1:
                    asked = row
                else:
                    self.done[row.get("path", "")] += 1
                    self.failed += bool(row.get("error"))
                whole += len(line)
        if asked != self.question:
            other = "of other runs, images or options"
            raise UserError([f"{self.part} is of another prediction, {other}; remove it, or use another --to"])
        os.truncate(self.part, whole)
        if not whole:
            self._write(self.question)

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows. Raises OSError; the rows before are kept."""
        self._added += len(rows)  # before, because those that fit onto a full disk are kept
        self._write(*rows)
        self.failed += sum(1 for row in rows if row.get("error"))

    def _write(self, *rows: Row) -> None:
        data = "".join(f"{_to_json(row)}\n" for row in rows).encode()
        failpoint("rows gathered")
        try:
            written = self._stream.write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.part)) from None
        failpoint("rows kept")
        if written != len(data):  # a full disk may accept a part, whose whole lines are kept
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.part))

    @property
    def count(self) -> int:
        """Number of rows, those of an earlier command included."""
        return self._before + self._added

    def rows(self) -> Iterator[Row]:
        """All rows so far."""
        with self.part.open("rb") as stream:
            next(stream)
            for line in stream:
                yield json.loads(line)

    def finish(self, names: Sequence[str]) -> None:
        """Write the file and remove the rows. names: of the columns. Raises OSError, and UserError if there is another
        file already; the rows are kept."""
        writers = {".csv": _csv, ".parquet": _parquet, ".jsonl": _jsonl}
        # the file exists if an earlier process was killed before it removed the rows: then it has the same content
        place = self.target.with_name(f"{self.target.name}.again") if self.target.exists() else self.target
        try:
            with replacing(place) as stream:
                writers[self.target.suffix.lower()](stream, self.rows(), names)
        except OSError as error:
            place.with_name(f"{place.name}.part").unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(self.target)) from None
        if place != self.target:
            same = filecmp.cmp(place, self.target, shallow=False)
            place.unlink()
            if not same:
                self._refuse_existing()
        self.part.unlink()

    def _refuse_existing(self) -> None:
        if self.target.exists():
            raise UserError([f"--to {self.target}: the file exists; remove it, or choose another name"])


def _row(line: bytes) -> Row:
    """A line that was written. Raises ValueError."""
    row = json.loads(line)
    if not isinstance(row, dict) or not all(isinstance(row.get(name, ""), str) for name in ("path", "class", "error")):
        raise ValueError
    if "runs" not in row and "path" not in row:
        raise ValueError
    return row


def show(rows: Iterator[Sequence[Row]], names: Sequence[str]) -> int:
    """Print rows as CSV. Returns how many have an error."""
    failed = 0
    table = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    table.writerow({name: printable(name) for name in names})
    for some in rows:
        table.writerows({name: _clean(value) for name, value in row.items()} for row in some)
        sys.stdout.flush()
        failed += sum(1 for row in some if row.get("error"))
    return failed


def _csv(stream: BinaryIO, rows: Iterator[Row], names: Sequence[str]) -> None:
    import io

    text = io.TextIOWrapper(stream, "utf-8", errors="backslashreplace", newline="", write_through=True)
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    text.detach()


def _jsonl(stream: BinaryIO, rows: Iterator[Row], names: Sequence[str]) -> None:
    for row in rows:
        stream.write(json.dumps({name: row.get(name) for name in names}).encode() + b"\n")


def _parquet(stream: BinaryIO, rows: Iterator[Row], names: Sequence[str]) -> None:
    import itertools

    import pyarrow as pa
    from pyarrow import parquet

    text = ("path", "labels", "error", *(name for name in names if name.startswith("class")))
    schema = pa.schema([(name, pa.string() if name in text else pa.float32()) for name in names])
    with parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        while some := list(itertools.islice(rows, AT_ONCE)):
            columns = {name: [_clean(row.get(name)) for row in some] for name in names}
            writer.write_table(pa.table(columns, schema=schema))


def _clean(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value
