"""Weights & Biases as a tracker of journals: offline runs in the folder wandb/ of the home, which `wandb sync` uploads.

An offline run can be written by one process only, from its start to its end. So a run whose mirror was stopped, or that
was resumed after its end, is written again from the beginning, under the same id, in place of the earlier one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import wandb

from core.record import journal
from core.tracking.cursor import Record
from core.tracking.destinations import WANDB
from core.tracking.plain import plain
from core.tracking.tracker import Missing, Point

STEP = "labbook/step"  # the axis of all metrics: an epoch or an optimizer step
_IMAGES = {".png", ".jpg", ".jpeg"}
_QUIET: dict[str, Any] = {
    "mode": "offline", "console": "off", "silent": True, "disable_git": True, "save_code": False,
    "x_disable_stats": True, "x_disable_meta": True, "x_disable_machine_info": True,
}  # fmt: skip


def tracker() -> OfflineRuns:
    """Returns the tracker that writes to the folder of the home."""
    return OfflineRuns(Path(WANDB.place()))


def is_hopeless(error: Exception) -> bool:
    """Whether waiting does not help."""
    return isinstance(error, PermissionError)


class OfflineRuns:
    """Offline runs. The id of a run is the name of its folder below `root`."""

    def __init__(self, root: Path):
        self.root = root
        self._runs: dict[str, Any] = {}
        self._statuses: dict[str, str] = {}

    def open(self, folder: Path, event: Mapping[str, Any], record: Record, seek: bool) -> Record:
        if record.run_id:
            if not (self.root / record.run_id).is_dir() or (record.status in journal.ENDED and not record.position):
                raise Missing
            return record
        for name in [name for name in self._runs if name.endswith(f"-{event['id']}")]:
            self._runs.pop(name).finish(exit_code=1)
        for old in self.root.glob(f"offline-run-*-{event['id']}"):
            shutil.rmtree(old)
        self.root.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=event["experiment"],
            id=event["id"],
            name=event.get("name") or event["id"],
            notes=event.get("description") or None,
            group=event.get("parent"),
            dir=str(self.root.parent),  # to which wandb adds its own name
            reinit="create_new",
            settings=wandb.Settings(**_QUIET),
        )
        run.define_metric("*", step_metric=STEP)
        name = Path(run.dir).parent.name
        self._runs[name] = run
        return replace(record, run_id=name)

    def params(self, record: Record, values: Mapping[str, str]) -> list[str]:
        self._run(record).config.update({name: plain(text) for name, text in values.items()}, allow_val_change=True)
        return []

    def tags(self, record: Record, values: Mapping[str, str]) -> list[str]:
        self._run(record).config.update({f"tags.{name}": text for name, text in values.items()}, allow_val_change=True)
        return []

    def metrics(self, record: Record, points: Sequence[Point]) -> list[str]:
        run = self._run(record)
        for (step, time), group in groupby(points, key=lambda point: (point.step, point.time)):
            run.log({point.name: point.value for point in group} | {STEP: step, "_timestamp": time / 1000})
        return []

    def dataset(self, record: Record, event: Mapping[str, Any]) -> list[str]:
        facts = {name: event[name] for name in ("name", "digest", "source", "context", "profile") if name in event}
        self._run(record).config.update({f"data.{event['name']}": facts}, allow_val_change=True)
        return []

    def artifact(self, record: Record, path: Path, name: str) -> list[str]:
        run = self._run(record)
        if not path.is_file():
            return [f"artifact {name}: no such file"]
        if path.suffix.lower() in _IMAGES:
            run.log({name: wandb.Image(str(path))})
        else:
            run.save(path, base_path=path.parents[name.count("/")], policy="now")  # a link, not a copy
        return []

    def status(self, record: Record, status: str, time: int) -> None:
        self._run(record)  # it may have to be written again
        self._statuses[record.run_id] = status

    def kept(self, record: Record) -> Record:
        return record

    def let_go(self, record: Record) -> Record:
        if record.run_id not in self._runs:
            return record
        status = self._statuses.pop(record.run_id, "RUNNING")
        self._runs.pop(record.run_id).finish(exit_code=int(status != "FINISHED"))
        return replace(record, position=int(status in journal.ENDED))

    def check(self, record: Record) -> None:
        pass

    def is_permanent(self, error: Exception) -> bool:
        return False

    def close(self) -> None:
        wandb.teardown()

    def _run(self, record: Record) -> Any:
        """The run that this process writes. Raises Missing if another one has begun it."""
        if record.run_id not in self._runs:
            raise Missing
        return self._runs[record.run_id]
