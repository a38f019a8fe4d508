"""Looking at a study that runs as a process of its own."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

import optuna

from core.runs.trained import load
from core.search.storage import open_storage
from tests.support.warm import title


def parent_of(home):
    records = (home / "mlruns" / "runs").glob("*/artifacts/record.json")
    return next(load(p.parent.parent.name) for p in records if json.loads(p.read_text()).get("study"))


def trials_of(home, name="tiny"):
    """The trials of a study in a local file; none before it exists."""
    try:
        storage = open_storage(None, home / "mlruns" / "studies" / name)
        return optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    except (KeyError, OSError):
        return []


def children(pid):
    """Worker processes of a search, the oldest first."""
    found = []
    for name in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if name.read_text().strip() == title(pid) and name.with_name("cmdline").read_bytes():  # empty: a zombie
                found.append(int(name.parent.name))
    return sorted(found)


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, process.text
        assert not process.ended, process.text
        time.sleep(0.05)
