"""Where things lie: one home holds mlflow.db, mlruns/ and data/store, wherever a command was typed."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the repository


def home() -> Path:
    """The repository root, or $LABBOOK_HOME."""
    return Path(os.environ.get("LABBOOK_HOME") or ROOT).absolute()


def runs() -> Path:
    """One folder per run: journal, record, artifacts, weights."""
    return home() / "mlruns" / "runs"


def launches() -> Path:
    """One folder per launched job: its submission, its logs."""
    return home() / "mlruns" / "launches"


def store() -> Path:
    """Downloads and decoded caches."""
    return home() / "data" / "store"
