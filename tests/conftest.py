"""Shared by all tests: nothing is written into the repository's own mlruns, store or database."""

import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("labbook", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("labbook")

torch.set_num_threads(1)  # the tensors of tests are small: a second thread costs more than it does
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of the test's own."""
    monkeypatch.setenv("LABBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture(scope="session")
def forge():
    """Starts command lines as processes of their own; see tests/support/forge.py."""
    from tests.support.forge import Forge

    parent = Forge()
    yield parent
    parent.close()
