"""Where MLflow's runs are, without an import of MLflow."""

from __future__ import annotations

import os
from pathlib import Path

from core.common import paths
from core.common.text import public
from core.tracking.store_check import problem


def tracking_uri() -> str:
    """Returns $MLFLOW_TRACKING_URI, or the database that `mlflow ui` opens in the home folder."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or default_uri()
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri or path.startswith("/") else f"sqlite:///{Path(path).absolute()}"


def public_uri() -> str:
    """Returns the tracking URI without user and password."""
    return public(tracking_uri(), whole=True)


def default_uri() -> str:
    """Returns the URI of the database in the home folder."""
    return f"sqlite:///{paths.home()}/mlflow.db"


def store_problem() -> str | None:
    """Returns what has to be repaired before MLflow can get a run, in a line with advice; None if nothing is known."""
    return problem(tracking_uri(), own=tracking_uri() == default_uri())


def is_file_store(folder: Path) -> bool:
    """Whether a folder is a store of files, such as mlruns/ of older versions of MLflow."""
    return any(_describes_experiment(path) for path in folder.glob("*/meta.yaml"))


def _describes_experiment(path: Path) -> bool:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return False
    return "experiment_id:" in text and "lifecycle_stage:" in text
