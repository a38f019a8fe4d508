"""The queue of the stand-in."""

import importlib
import sys

import pytest

import experiments
from core.queue import runner
from tests.support.queue_bench import STANDIN, Bench


@pytest.fixture
def bench(tmp_path, monkeypatch, forge):
    package = tmp_path / "packages" / "standin"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("VALUE = 1\n")
    (package / "__main__.py").write_text(STANDIN)
    monkeypatch.setenv("LABBOOK_EXPERIMENTS", str(package.parent))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(package.parent)])
    monkeypatch.setattr(runner, "LOOK", 0.1)
    importlib.import_module("experiments.standin")
    yield Bench(tmp_path, forge)
    sys.modules.pop("experiments.standin")
