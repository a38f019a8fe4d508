"""Shared by all tests: nothing is written into the repository's own mlruns, store or database."""

import gc
import os
from pathlib import Path

# The tensors of tests are small, here and in the programs they start: a second thread costs more than it does.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# read once, when a library imports the hub's; without it, each name that is not in the cache is asked for several times
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

import tests.support  # noqa: F401 its experiments become known before any other is imported
from core.common import plots
from tests.support import pictures

settings.register_profile("labbook", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("labbook")

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Two processes for folders. None for files: their start costs more than it saves, and they hide a wrong name."""
    return 2 if all(Path(name).is_dir() for name in config.args) else 0


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """No garbage is looked for among the million objects that tests import: neither now, a quarter of the time that
    collection takes, nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """Files that start programs come first: they take longest, and the last one is waited for by all."""
    long = {item.path for item in items if "forge" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of the test's own."""
    monkeypatch.setenv("LABBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture(autouse=True, scope="module")
def blank_pictures(request):
    """The pictures of runs, which take most of the time of a short one, are blank where no test looks at them, here and
    in the programs of `forge`.

    Where one does, its file has the marker `pictures`, or the test takes the fixture `drawn`. Other tests would not
    notice a failure: what cannot be drawn is left out of the run with one line.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not request.node.get_closest_marker("pictures"):
            patch.setenv(pictures.BLANK, "1")
            pictures.leave_blank(patch.setattr)
        yield


@pytest.fixture
def drawn(monkeypatch):
    monkeypatch.delenv(pictures.BLANK, raising=False)
    for name, draw in pictures.DRAW.items():
        monkeypatch.setattr(plots, name, draw)


@pytest.fixture(scope="session")
def forge():
    """Starts command lines as processes of their own; see tests/support/forge.py."""
    from tests.support.forge import Forge

    parent = Forge()
    yield parent
    parent.close()


@pytest.fixture(scope="module")
def warm(forge):
    """The workers of searches, and the mirrors, of this process are forked, not started; see tests/support/warm.py."""
    from core.search import pool
    from core.tracking import api
    from tests.support.warm import Mirrors, Workers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "multiprocessing", Workers(forge.workers))
        patch.setattr(api, "subprocess", Mirrors(forge.mirrors))
        yield
