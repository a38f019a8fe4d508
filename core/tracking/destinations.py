"""The trackers by name, and what is wrong with them on this machine. Nothing here imports one of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import cast

from core.common import paths
from core.common.errors import UserError
from core.tracking import cursor
from core.tracking.address import public_uri, store_problem
from core.tracking.tracker import Tracker


@dataclass(frozen=True)
class Destination:
    """A tracker. place: where its runs are, as the cursor notes it.  problem: what waiting does not mend, with advice.
    look: the command that shows or uploads the runs.  module: the file with `tracker()`, which connects."""

    name: str
    title: str
    module: str
    place: Callable[[], str]
    problem: Callable[[], str | None]
    look: Callable[[], str]

    def connect(self) -> Tracker:
        """Returns the tracker. Raises what its library raises if there is none."""
        return cast(Tracker, importlib.import_module(self.module).tracker())

    def is_hopeless(self, error: Exception) -> bool:
        """Whether waiting does not help, because something has to be changed or installed."""
        return isinstance(error, ImportError) or bool(importlib.import_module(self.module).is_hopeless(error))

    @property
    def sync(self) -> str:
        """The command that sends the rest."""
        return "labbook sync" if self.name == cursor.MLFLOW else f"labbook sync --to {self.name}"


def folder(name: str) -> str:
    """Returns the folder of a tracker that keeps its runs in files."""
    return str(paths.home() / name)


def _lacks(module: str, extra: str) -> Callable[[], str | None]:
    def problem() -> str | None:
        if find_spec(module):
            return None
        return f'{module} is not installed; install it with pip install -e ".[{extra}]"'

    return problem


MLFLOW = Destination(
    cursor.MLFLOW, "MLflow", "core.tracking.mlflow_store", public_uri, store_problem, lambda: "labbook ui"
)
TENSORBOARD = Destination(
    "tensorboard",
    "TensorBoard",
    "core.tracking.tensorboard_files",
    lambda: folder("tensorboard"),
    _lacks("tensorboard", "tensorboard"),
    lambda: f"tensorboard --logdir {folder('tensorboard')}",
)
WANDB = Destination(
    "wandb",
    "W&B",
    "core.tracking.wandb_offline",
    lambda: folder("wandb"),
    _lacks("wandb", "wandb"),
    lambda: f"wandb sync {folder('wandb')}/offline-run-*",
)
TRACKIO = Destination(
    "trackio",
    "Trackio",
    "core.tracking.trackio_store",
    lambda: folder("trackio"),
    _lacks("trackio", "trackio"),
    lambda: f"TRACKIO_DIR={folder('trackio')} trackio show",
)
DESTINATIONS = {each.name: each for each in (MLFLOW, TENSORBOARD, WANDB, TRACKIO)}


def chosen(mlflow: bool, also: Iterable[str]) -> list[Destination]:
    """Returns the destinations of the runs of a launch. Raises UserError if the library of one in `also` is missing;
    MLflow, which is the default, may have a problem."""
    others = [DESTINATIONS[name] for name in dict.fromkeys(also)]
    if wrong := [f"--also {each.name}: {problem}" for each in others if (problem := each.problem())]:
        raise UserError(wrong)
    return [*([MLFLOW] if mlflow else []), *others]
