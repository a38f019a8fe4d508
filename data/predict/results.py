"""The rows of a prediction: kept on disk as they come, so that an interrupted prediction continues, and then written as
CSV, Parquet or JSON lines."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

from core.common.errors import UserError
from core.common.files import replacing
from core.common.text import printable

SUFFIXES = (".csv", ".parquet", ".jsonl")
AT_ONCE = 10_000  # rows of a Parquet row group

Row = dict[str, Any]


class Kept:
    """Rows in FILE.rows, one JSON object in a line. A first line says what is predicted: another command is refused."""

    def __init__(self, target: Path, question: Row):
        if target.suffix.lower() not in SUFFIXES:
            raise UserError([f"--to {target}: the name must end in {', '.join(SUFFIXES)}"])
        if not target.absolute().parent.is_dir():
            raise UserError([f"--to {target}: the folder {target.parent} does not exist"])
        if target.exists():
            raise UserError([f"--to {target}: the file exists; remove it, or choose another name"])
        self.target, self.part = target, target.with_name(f"{target.name}.rows")
        self.question = question
        self.done: set[str] = set()
        self.failed = self._added = 0

    def __enter__(self) -> Self:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self.part, flags, 0o644)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UserError([f"{self.part} is not a regular file; remove it, or use another --to"])
        self._stream: BinaryIO = os.fdopen(descriptor, "ab")
        try:
            fcntl.lockf(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._stream.close()
            raise UserError([f"--to {self.target}: another process is writing this file"]) from None
        if self.part.stat().st_size:
            self._resume()
        else:
            self._write(self.question)
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        if not self._added and not self.done:
            self.part.unlink(missing_ok=True)

    def _resume(self) -> None:
        """Read the paths that are done, and remove a torn last line. Raises UserError for rows of another command."""
        content = self.part.read_bytes()
        whole = content.rfind(b"\n") + 1
        lines = []
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                lines.append(_row(line))
            except ValueError:
                self._stream.close()
                raise UserError([f"{self.part}: line {number} is damaged; remove the file"]) from None
        if not lines or lines[0] != self.question:
            self._stream.close()
            other = "of other runs, images or options"
            raise UserError([f"{self.part} is of another prediction, {other}; remove it, or use another --to"])
        os.truncate(self.part, whole)
        self.done = {row["path"] for row in lines[1:]}
        self.failed = sum(1 for row in lines[1:] if row.get("error"))

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        for row in rows:
            self._write(row)
            self.failed += bool(row.get("error"))
        self._added += len(rows)
        self._stream.flush()

    def _write(self, row: Row) -> None:
        self._stream.write(json.dumps(row).encode() + b"\n")

    def rows(self) -> Iterator[Row]:
        """All rows so far."""
        with self.part.open("rb") as stream:
            next(stream)
            for line in stream:
                yield json.loads(line)

    def finish(self, names: Sequence[str]) -> None:
        """Write the file and remove the rows. names: of the columns."""
        writers = {".csv": _csv, ".parquet": _parquet, ".jsonl": _jsonl}
        with replacing(self.target) as stream:
            writers[self.target.suffix.lower()](stream, self.rows(), names)
        self.part.unlink()


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
