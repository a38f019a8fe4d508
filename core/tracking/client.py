"""Calls to MLflow other than logging: connect to a store, find or create experiments and runs, classify errors."""

from __future__ import annotations

import contextlib
import getpass
import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import ArgumentError

from core.common.failpoints import failpoint
from core.tracking.tracker import Deleted, Missing

RUN_TAG = "labbook.run"
NOTE = "mlflow.note.content"
# A shared view of MLflow's page of curves, which names the sections in their order; sections that it does not name come
# last. MLflow itself sorts them by name, so that "layers" would come before "train". tests/test_mlflow_ui.py opens it.
VIEW = "labbook"
_VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
_SECTIONS = ("train", "val", "test", "Model metrics", "step", "layers")
_REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "INVALID_STATE",
}


def connect(uri: str) -> MlflowClient:
    """Returns a client of a store that responds. Raises what MLflow raises if it does not.

    MLflow creates the tables of a new database without a lock, and processes that start at the same time crash;
    therefore a lock is held here.
    """
    if uri.startswith("sqlite:"):
        importlib.import_module("mlflow.store.tracking.sqlalchemy_store")  # takes a second: before acquiring the lock
    database = _database(uri)
    with FileLock(f"{database}.lock") if database else contextlib.nullcontext():
        if database and not database.exists():
            _create(database)
        client = MlflowClient(uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


def experiment(client: MlflowClient, name: str, description: str) -> str:
    """Returns the id of the experiment with this name, which is created or, if it was deleted, restored."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            # No artifact_location: a server chooses its own, and a database uses <home>/mlruns/<experiment id>,
            # because the current folder of the mirror is the home folder.
            tags = {NOTE: description} if description else {}
            return client.create_experiment(name, tags={**tags, _VIEW_TAG: _view()})
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise error
    if found.lifecycle_stage == LifecycleStage.DELETED:
        print(
            f"experiment {name!r} was deleted in MLflow and is restored, because one of its runs continues", flush=True
        )
        client.restore_experiment(found.experiment_id)
    if _VIEW_TAG not in found.tags:  # of an earlier version
        client.set_experiment_tag(found.experiment_id, _VIEW_TAG, _view())
    return found.experiment_id


def _view() -> str:
    sections = [{"uuid": f"labbook-{name}", "name": name, "display": True, "isReordered": False} for name in _SECTIONS]
    return json.dumps({"compareRunCharts": [], "compareRunSections": sections, "isAccordionReordered": True})


def find_run(client: MlflowClient, experiment_id: str, run: str) -> str | None:
    """Returns MLflow's id of a run that an earlier mirror created, or None. Raises Deleted."""
    found = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{run}'", ViewType.ALL, max_results=1)
    return active(found[0]) if found else None


def create_run(client: MlflowClient, experiment_id: str, event: Mapping[str, Any], parent: str | None) -> str:
    """Create a run for the "run" event of a journal. Returns MLflow's id."""
    tags = {RUN_TAG: event["id"], NOTE: event.get("description"), "mlflow.parentRunId": parent}
    with contextlib.suppress(Exception):  # the user may be unknown in a container
        tags["mlflow.user"] = getpass.getuser()
    created = client.create_run(
        experiment_id,
        start_time=event["time"],
        tags={name: text for name, text in tags.items() if text},
        run_name=event.get("name") or event["id"],
    )
    failpoint("run created")
    return str(created.info.run_id)


def check_run(client: MlflowClient, run_id: str) -> None:
    """Raises Deleted or Missing if the run does not accept entries any more."""
    try:
        active(client.get_run(run_id))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise Missing from error
        raise


def active(run: Run) -> str:
    """Returns the id of a run. Raises Deleted."""
    if run.info.lifecycle_stage == LifecycleStage.DELETED:
        raise Deleted("the run was deleted in MLflow; restore it there, then send the rest: labbook sync")
    return str(run.info.run_id)


def permanent(error: Exception) -> bool:
    """Whether the same call would always fail. Errors that may be due to an outage are not permanent."""
    if isinstance(error, MlflowException):
        return error.error_code in _REFUSALS
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in (400, 404, 413, 422)
    return isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)


def hopeless(error: Exception) -> bool:
    """Whether waiting does not help: the address, the login or the installation has to be changed."""
    if isinstance(error, MlflowException):
        version = "database schema" in str(error)
        return version or error.error_code in ("UNAUTHENTICATED", "PERMISSION_DENIED", "ENDPOINT_NOT_FOUND")
    return isinstance(error, ImportError | ArgumentError | requests.exceptions.InvalidURL)


def _database(uri: str) -> Path | None:
    """The file of a sqlite URI, whose folder is created; None for a server."""
    if not uri.startswith("sqlite:///"):
        return None
    database = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    database.parent.mkdir(parents=True, exist_ok=True)
    return database


def _create(database: Path) -> None:
    """Create the database atomically, under a temporary name.

    Otherwise `mlflow ui`, which does not use the lock, would crash if it was started while the tables are created.
    """
    part = database.with_name(f"{database.name}.part")
    part.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{part}", registry_uri=f"sqlite:///{part}").search_experiments(max_results=1)
    with contextlib.suppress(FileExistsError):  # keep a database that another program has created meanwhile
        os.link(part, database)
    part.unlink()
