"""Parquet files with the history of runs: which program wrote one, and its columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core.common.errors import UserError
from core.common.text import few
from core.importing.log import check_file

if TYPE_CHECKING:
    import pyarrow as pa

NEPTUNE = ("run_id", "attribute_path", "attribute_type", "step", "timestamp", "float_value", "int_value",
           "string_value", "bool_value")  # fmt: skip
WANDB = ("_step",)
MOST_BYTES = 2**30


def written_by(path: Path) -> Literal["W&B", "Neptune"]:
    """The program whose export a file is, by its columns. Raises UserError that names the columns that are missing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_file(path, MOST_BYTES)
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise UserError([f"{path}: is not a Parquet file: {' '.join(str(error).split())[:200]}"]) from None
    if "attribute_path" in names or "attribute_type" in names:
        if lacking := [name for name in NEPTUNE if name not in names]:
            raise UserError([f"{path}: lacks the columns {', '.join(lacking)} of an export of Neptune"])
        return "Neptune"
    if all(name in names for name in WANDB):
        return "W&B"
    raise UserError(
        [f"{path}: has neither the column _step of a history of W&B, nor attribute_path and the other columns of an "
         f"export of Neptune; its columns are {few(names)}"]
    )  # fmt: skip


def columns(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """The table in a file; names: of the columns to read, of those that it has. Raises UserError for a damaged file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        wanted = None if names is None else [name for name in names if name in pq.read_schema(path).names]
        return pq.read_table(path, columns=wanted, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise UserError([f"{path}: cannot be read: {' '.join(str(error).split())[:200]}"]) from None
