"""Trackio as a tracker of journals: its own SQLite files, one for each experiment, in the folder trackio/ of the home.

trackio.log drops what it cannot write, gives it the present time, and writes from a thread. So points are written by
the class below it, which raises errors, and which ignores a point that is there: each has an id, made of run, name and
step. A run has a row without metrics for its params, which Trackio calls its config.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.tracking.cursor import Record
from core.tracking.destinations import TRACKIO
from core.tracking.plain import plain
from core.tracking.tracker import Missing, Point

STATUS = "status"  # in the config: Trackio has no status of a run


def tracker() -> Projects:
    """Returns the tracker that writes to the folder of the home."""
    os.environ["TRACKIO_DIR"] = TRACKIO.place()  # read when trackio is imported
    from trackio.sqlite_storage import SQLiteStorage

    return Projects(SQLiteStorage)


def is_hopeless(error: Exception) -> bool:
    """Whether waiting does not help."""
    return isinstance(error, PermissionError)


class Projects:
    """Projects of Trackio. The id of a run is that of labbook; its experiment is the project.

    store: trackio.sqlite_storage.SQLiteStorage.
    """

    def __init__(self, store: Any):
        self.store = store
        self._names: dict[str, str] = {}  # for display, by id
        self._begun: dict[str, int] = {}  # ms since 1970, by id

    def open(self, folder: Path, event: Mapping[str, Any], record: Record, seek: bool) -> Record:
        run, project = event["id"], event["experiment"]
        self._names[run], self._begun[run] = event.get("name") or run, event["time"]
        if record.run_id and self._config(record) is None:
            raise Missing  # also if a user deleted it
        record = replace(record, run_id=run, experiment_id=project)
        group = {"group": event["parent"]} if event.get("parent") else {}
        self._set(record, {"run": run, **group})
        return record

    def params(self, record: Record, values: Mapping[str, str]) -> list[str]:
        self._set(record, {name: plain(text) for name, text in values.items()})
        return []

    def tags(self, record: Record, values: Mapping[str, str]) -> list[str]:
        self._set(record, {f"tags.{name}": text for name, text in values.items()})
        return []

    def metrics(self, record: Record, points: Sequence[Point]) -> list[str]:
        self._log(record, points)
        return []

    def dataset(self, record: Record, event: Mapping[str, Any]) -> list[str]:
        facts = {name: event[name] for name in ("name", "digest", "source", "context", "profile") if name in event}
        self._set(record, {f"data.{event['name']}": facts})
        return []

    def artifact(self, record: Record, path: Path, name: str) -> list[str]:
        return []  # only the process that logs a run, with trackio.init, can give it files and pictures

    def status(self, record: Record, status: str, time: int) -> None:
        self._set(record, {STATUS: status})

    def kept(self, record: Record) -> Record:
        return record

    def let_go(self, record: Record) -> Record:
        return record

    def check(self, record: Record) -> None:
        pass

    def is_permanent(self, error: Exception) -> bool:
        return False

    def close(self) -> None:
        pass

    def _config(self, record: Record) -> dict[str, Any] | None:
        """The config of a run; None if Trackio does not have the run."""
        found: dict[str, Any] | None = self.store.get_run_config(record.experiment_id, run_id=record.run_id)
        return found

    def _set(self, record: Record, values: Mapping[str, Any]) -> None:
        """Add to the config of a run, which Trackio replaces as a whole."""
        run = record.run_id
        config = {**(self._config(record) or {}), **values}
        self._write(record, [{}], [0], [self._begun[run]], [f"{run}/config"], config)

    def _log(self, record: Record, points: Sequence[Point]) -> None:
        """Write points, each as a row of its own: rows of several would differ if they were sent again in other
        batches."""
        self._write(
            record,
            [{point.name: point.value} for point in points],
            [point.step for point in points],
            [point.time for point in points],
            [f"{record.run_id}/{point.name}/{point.step}" for point in points],
        )

    def _write(
        self,
        record: Record,
        rows: list[dict[str, float]],
        steps: list[int],
        times: list[int],
        ids: list[str],
        config: Mapping[str, Any] | None = None,
    ) -> None:
        run = record.run_id
        self.store.bulk_log(
            project=record.experiment_id,
            run=self._names[run],
            run_id=run,
            metrics_list=rows,
            steps=steps,
            timestamps=[datetime.fromtimestamp(time / 1000, UTC).isoformat() for time in times],
            log_ids=ids,
            config=config,
        )
