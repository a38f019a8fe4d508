"""Paths in the home folder, which contains mlflow.db, mlruns/ and data/store regardless of the current folder."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the repository


def home() -> Path:
    """Returns $LABBOOK_HOME, or the root of the repository."""
    return Path(os.environ.get("LABBOOK_HOME") or ROOT).absolute()


def runs() -> Path:
    """Returns the folder of the runs; each has a subfolder with its journal and artifacts."""
    return home() / "mlruns" / "runs"


def launches() -> Path:
    """Returns the folder of launched jobs; each has a subfolder with its logs."""
    return home() / "mlruns" / "launches"


def python_path() -> str:
    """Returns the PYTHONPATH of a child process: that of this one, with this repository before it."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def queue() -> Path:
    """Returns the folder of the queue; each entry has a file."""
    return home() / "mlruns" / "queue"


def looks() -> Path:
    """Returns the file of the looks at differences between settings."""
    return home() / "mlruns" / "looks.jsonl"


def ledger() -> Path:
    """Returns the file of the readings of test splits."""
    return home() / "mlruns" / "ledger.jsonl"


def decisions() -> Path:
    """Returns the folder of the decisions; each has a subfolder with its plan."""
    return home() / "mlruns" / "decisions"


def store() -> Path:
    """Returns the folder of downloads and decoded images."""
    return home() / "data" / "store"
