"""Repair the database of the home folder: upgrade its tables, follow a home that was moved. A copy is made before."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock

from core.common import paths
from core.common.errors import UserError
from core.common.files import sync
from core.tracking import cursor
from core.tracking.api import default_uri
from core.tracking.store_check import all_places, columns, earlier_homes, revisions, schema, split


def repair_store() -> Iterator[str]:
    """Repair the database of the home folder if necessary. Yields what was done, in a line each. Raises UserError."""
    database = paths.home() / "mlflow.db"
    if not database.exists():
        return
    try:
        with FileLock(f"{database}.lock"):
            old = bool(revisions().get(schema(database) or ""))
            homes = earlier_homes(database)
            if not (old or homes):
                return
            copy = _copy(database)
            yield f"{database} was copied to {copy.name}"
            if old:
                _upgrade(database, copy)
                yield f"{database} was upgraded to the tables of the installed MLflow"
            for home in homes:
                yield f"{_relocate(database, home)} places of artifacts in {home} are now in {paths.home()}"
    except sqlite3.Error as error:
        raise UserError(
            [f"{database}: {error}; close the programs that use it, such as mlflow ui, and try again"]
        ) from None


def _copy(database: Path) -> Path:
    copy = database.with_name(f"{database.name}.{time.strftime('%Y%m%d-%H%M%S')}")
    with closing(sqlite3.connect(database)) as one, closing(sqlite3.connect(copy)) as other:
        one.backup(other)
    sync(copy)
    sync(copy.parent)
    return copy


def _upgrade(database: Path, copy: Path) -> None:
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{database}"]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    if done.returncode:
        with closing(sqlite3.connect(copy)) as one, closing(sqlite3.connect(database)) as other:
            one.backup(other)
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise UserError([f"{database} could not be upgraded and is as before: {reason}"])


def _relocate(database: Path, home: str) -> int:
    """Replace a former home in all places of artifacts and in the progress of the mirror. Returns their number."""
    count = 0
    with closing(sqlite3.connect(database)) as opened, opened:
        opened.execute("begin immediate")
        known = list(columns(opened))
        for place in list(dict.fromkeys(all_places(opened))):
            found = split(place)
            if not found or found[1] != home:
                continue
            start, _, below = found
            path = f"{paths.home()}/mlruns/{below}"
            new = start + (quote(path) if start else path)
            for table, column in known:
                count += opened.execute(f"update {table} set {column} = ? where {column} = ?", (new, place)).rowcount
    for folder in paths.runs().glob("*"):
        record = cursor.load(folder)
        if record and record.tracking_uri == f"sqlite:///{home}/mlflow.db":
            cursor.save(folder, replace(record, tracking_uri=default_uri()))
    return count
