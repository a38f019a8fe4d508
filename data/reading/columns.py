"""The columns of a CSV or Parquet file, as pyarrow reads them, bounded before they are expanded."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from core.common.errors import DataError
from data.reading.progress import printable

EXPECTED = (
    "expected: a .csv or .parquet file, or a folder with one such file or with part-*.parquet files, with the columns "
    "path and label, and optionally split (train, val, test) and group; paths are relative to the folder of the table"
)
ROWS_LIMIT = 5_000_000  # each of them is a file that is looked for
CELL_LIMIT = 65_536  # bytes
COLUMN_LIMIT = 2**29  # bytes of all texts of a column


def read_csv(raw: bytes, table: Path, header: bool = True) -> Any:
    """The table in a CSV file, every column as text. header: the first row has the names of the columns; otherwise
    these are 1, 2, ... Raises DataError."""
    from csv import Error, reader

    import pyarrow as pa
    from pyarrow import csv

    try:
        text = raw.decode("utf-8-sig")
        text = text if "\n" in text else text.replace("\r", "\n")  # line ends of old Macs
        line = text.partition("\n")[0]
        separator = next((mark for mark in ";\t" if mark in line and "," not in line), ",")
        names = next(reader(io.StringIO(text), delimiter=separator), [])
        names = names if header else [str(number) for number in range(1, len(names) + 1)]
        # read every column as text, because type inference would turn 007 into 7
        options = csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
        )
        parsing = csv.ParseOptions(newlines_in_values=True, delimiter=separator)
        # without threads: those of pyarrow abort a process that ends soon after
        reading = csv.ReadOptions(use_threads=False, column_names=None if header else names)
        content = csv.read_csv(pa.BufferReader(text.encode()), reading, parsing, options)
        return content.rename_columns([name.strip() for name in content.column_names])
    except Error as error:
        raise DataError([f"{table} is not a comma-separated CSV file: {printable(str(error))[:300]}"]) from None
    except UnicodeDecodeError as error:
        raise DataError([f"{table} is not UTF-8 text (byte {error.start:,}); save it as UTF-8"]) from None
    except pa.ArrowInvalid as error:
        if not raw.strip():
            raise DataError([f"{table} is empty", EXPECTED]) from None
        raise DataError([f"{table} is not a comma-separated CSV file: {printable(str(error))[:300]}"]) from None


def read_parquet(raw: bytes, table: Path, names: set[str]) -> Any:
    """The table with these columns; of others, only the names. Text is not expanded: a file may repeat a large one."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pa.BufferReader(raw))
        if file.metadata.num_rows > ROWS_LIMIT:
            raise DataError([_too_many_rows(table, file.metadata.num_rows)])
        fields = file.schema_arrow
        unique = len(set(fields.names)) == len(fields.names)
        text = [field.name for field in fields if unique and _is_text(field.type)]
        wanted = [name for name in fields.names if name in names]
        # read_table starts a thread, which aborts a process that ends soon after
        file = parquet.ParquetFile(pa.BufferReader(raw), read_dictionary=text, pre_buffer=False)
        found = file.read(columns=wanted, use_threads=False)
        for name in fields.names:
            found = found if name in names else found.append_column(name, pa.nulls(found.num_rows))
        return found
    except (pa.ArrowException, OSError) as error:
        raise DataError([f"{table} is not a Parquet file: {printable(str(error))[:300]}"]) from None


def refuse_large(table: Path, content: Any, named: dict[str, str]) -> None:
    """Raises DataError for a table whose cells would not fit into memory."""
    import pyarrow as pa
    from pyarrow import compute

    if content.num_rows > ROWS_LIMIT:
        raise DataError([_too_many_rows(table, content.num_rows)])
    for name in named.values():
        together = 0
        for chunk in content.column(name).chunks:
            values = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
            values = values.flatten() if pa.types.is_list(values.type) else values
            if not _is_text(values.type):
                continue
            if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
                raise DataError([f"{table}: column {name} has the type {content.column(name).type}; text is needed"])
            lengths = compute.binary_length(values)
            longest = compute.max(lengths).as_py() or 0
            if longest > CELL_LIMIT:
                raise DataError(
                    [f"{table}: column {name} has a text of {longest:,} bytes; the limit is {CELL_LIMIT:,}"]
                )
            lengths = lengths.take(chunk.indices) if pa.types.is_dictionary(chunk.type) else lengths
            together += compute.sum(compute.cast(lengths, pa.int64())).as_py() or 0
        if together > COLUMN_LIMIT:
            raise DataError([f"{table}: column {name} has {together:,} bytes of text; the limit is {COLUMN_LIMIT:,}"])


def _is_text(kind: Any) -> bool:
    """Whether a column of a Parquet file holds texts or bytes, which may expand."""
    from pyarrow import types

    return any(
        is_so(kind) for is_so in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    )


def _too_many_rows(table: Path, rows: int) -> str:
    return f"{table} has {rows:,} rows, more than the limit of {ROWS_LIMIT:,}; divide it, or use WebShards"
