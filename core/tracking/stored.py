"""Runs in a store of MLflow that another program filled, read for `labbook import`; nothing is written to the store."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from core.common.errors import UserError
from core.common.text import public
from core.tracking.address import is_file_store

# MLflow 3.13 and later refuse stores that are folders of files unless the user allows them; and the user waits here
_ENVIRONMENT = {
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_SERVERS = ("postgresql", "mysql", "mssql")
_MOST_FILES = 1000  # artifacts of a run that are listed


@dataclass(frozen=True)
class StoredRun:
    """A run of a store. start, end: ms since 1970, or None.  last: metric -> last value."""

    id: str
    name: str
    experiment: str
    status: str
    start: int | None
    end: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    last: Mapping[str, float]


class Store:
    """A store of MLflow. Every method raises UserError if the store does not answer.

    uri: sqlite:///FILE, http://HOST, another database, or file:FOLDER.
    """

    def __init__(self, uri: str):
        self.uri = public(uri, whole=True)
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        _refuse_missing(uri, self.uri)
        with self._told():
            from mlflow import MlflowClient

            if uri.split("://")[0].split("+")[0] in _SERVERS:  # MLflow alone would try again for many minutes
                from sqlalchemy import create_engine

                create_engine(uri).connect().close()
            self._client = MlflowClient(uri, registry_uri=uri)

    def runs(self) -> Iterator[StoredRun]:
        """Yield all runs that were not deleted, those of an experiment together."""
        with self._told():
            for experiment in _pages(self._client.search_experiments):
                search = partial(self._client.search_runs, [experiment.experiment_id])
                for run in _pages(search):
                    info, data = run.info, run.data
                    name = info.run_name or info.run_id
                    yield StoredRun(info.run_id, name, experiment.name, info.status, info.start_time, info.end_time,
                                    data.params, data.tags, data.metrics)  # fmt: skip

    def history(self, run_id: str, name: str) -> list[tuple[int, float, int]]:
        """(step, value, ms since 1970) of each value of a metric, in the order in which they were logged."""
        with self._told():
            found = self._client.get_metric_history(run_id, name)
        return [(point.step, point.value, point.timestamp) for point in found]

    def files(self, run_id: str) -> list[tuple[str, int]]:
        """(path, bytes) of each artifact of a run, of at most 1,000."""
        found: list[tuple[str, int]] = []
        folders = [""]
        with self._told():
            while folders and len(found) < _MOST_FILES:
                for entry in self._client.list_artifacts(run_id, folders.pop() or None):
                    if entry.is_dir:
                        folders.append(entry.path)
                    elif ".." not in PurePosixPath(entry.path).parts:
                        found.append((entry.path, int(entry.file_size or 0)))
        return sorted(found[:_MOST_FILES])

    def fetch(self, run_id: str, name: str, to: Path) -> None:
        """Copy an artifact to a path."""
        with self._told(), tempfile.TemporaryDirectory(dir=to.parent) as aside:
            os.replace(self._client.download_artifacts(run_id, name, aside), to)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (UserError, GeneratorExit):
            raise
        except Exception as error:  # of MLflow, SQLAlchemy, a driver, or the network
            reason = public(" ".join(str(error).split()))[:300]
            old = "database schema" in reason
            advice = f"; bring a copy of it up to date: mlflow db upgrade {self.uri}" if old else ""
            raise UserError([f"{self.uri}: MLflow cannot read this store: {reason}{advice}"]) from None


def _refuse_missing(uri: str, shown: str) -> None:
    """Raises UserError for a file or folder that is no store. MLflow would create one in its place."""
    if uri.startswith("sqlite:"):
        path = Path(uri.partition(":///")[2].partition("?")[0])
        if not path.is_file():
            raise UserError([f"{shown}: file not found"])
        try:
            with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as opened:
                known = opened.execute("select 1 from sqlite_master where name = 'experiments'").fetchone()
        except sqlite3.Error as error:
            raise UserError([f"{shown}: is not a database of MLflow: {error}"]) from None
        if not known:
            raise UserError([f"{shown}: is not a database of MLflow: it has no table experiments"])
    elif uri.startswith("file:"):
        path = Path(uri.removeprefix("file:").removeprefix("//"))
        if not path.is_dir():
            raise UserError([f"{shown}: folder not found"])
        if not is_file_store(path):
            raise UserError([f"{shown}: is not a store of MLflow: no folder in it has a meta.yaml of an experiment"])


def _pages(call: Callable[..., Any]) -> Iterator[Any]:
    """Yield what a paged call finds; it takes `page_token`."""
    token = None
    while True:
        page = call(page_token=token)
        yield from page
        if not (token := page.token):
            return
