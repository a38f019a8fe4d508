"""Trackio has what the journal has, once: also after a kill and a resume. Trackio reads it, in its own process."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from core.cli.sync import main as sync
from core.record import journal
from core.tracking import cursor
from core.tracking.api import Mirror, mirror_status
from core.tracking.destinations import TRACKIO
from tests.support.mlflow_server import begin, kill, wait_for
from tests.support.optional import library

library("trackio", extra="trackio")
READ = """
import json, sys
from trackio import Api
from trackio.sqlite_storage import SQLiteStorage
(run,) = [run for run in Api().runs("tracking") if run.id == sys.argv[1]]
logs = SQLiteStorage.get_logs("tracking", run.name, run_id=run.id)
print(json.dumps({"name": run.name, "config": run.config, "logs": logs}))
"""


def read(run: Path) -> dict[str, Any]:
    """What Trackio has of a run. Its folder is fixed when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", READ, run.name],
        env={**os.environ, "TRACKIO_DIR": TRACKIO.place()},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


def assert_whole(run: Path, logs: list[dict[str, Any]]) -> None:
    found: dict[str, dict[int, float]] = {}
    for row in logs:
        for name in row.keys() - {"step", "timestamp"}:
            assert row["step"] not in found.setdefault(name, {}), f"{name} is there twice"
            found[name][row["step"]] = float(row[name])
    expected = {name: {step: float(v) for step, v in each.items()} for name, each in journal.history(run).items()}
    assert {name: repr(sorted(each.items())) for name, each in found.items()} == {
        name: repr(sorted(each.items())) for name, each in expected.items()
    }


def test_a_run_arrives_whole_after_a_kill_and_a_resume(home):
    log = begin("arrives", name="the name", parent="another")
    log.write("params", values={"optimizer.lr": "0.1", "model": "MLP"})
    log.write("tags", values={"device": "cpu"})
    log.write("dataset", name="digits", digest="d" * 64, source="sklearn", context="training", profile={"train": 3})
    mirror = Mirror(TRACKIO)
    mirror.follow(log.folder)
    log.metrics(0, {"train/loss": 1.0})
    wait_for(lambda: mirror_status(log.folder, TRACKIO).waiting == 0, 60)
    noted = cursor.load(log.folder, "trackio")
    for step in range(1, 30):
        log.metrics(step, {"train/loss": 1 / step, "odd": math.nan if step == 3 else step})
    wait_for(lambda: mirror_status(log.folder, TRACKIO).waiting == 0, 60)
    kill(mirror)
    assert noted is not None
    cursor.save(log.folder, noted, "trackio")  # as if it had been killed before it noted what it wrote
    log.metrics(7, {"train/loss": 99.0})
    log.close("KILLED")
    assert sync(["--to", "trackio"]) == 0
    found = read(log.folder)
    assert_whole(log.folder, found["logs"])
    assert (found["name"], found["config"]["status"]) == ("the name", "KILLED")

    log = begin("arrives", name="the name", parent="another")
    log.metrics(30, {"train/loss": 0.0})
    log.close("FINISHED")
    assert sync(["--to", "trackio"]) == 0
    found = read(log.folder)
    assert_whole(log.folder, found["logs"])
    config = found["config"]
    assert (config["optimizer.lr"], config["model"], config["tags.device"]) == (0.1, "MLP", "cpu")
    assert (config["data.digits"]["profile"], config["group"], config["status"]) == (
        {"train": 3},
        "another",
        "FINISHED",
    )
    times = {
        event["step"]: event["time"] // 1000 for _, event in journal.read(log.folder) if event["event"] == "metrics"
    }
    (last,) = [row for row in found["logs"] if row["step"] == 30]
    assert int(datetime.fromisoformat(last["timestamp"]).timestamp()) == times[30]

    (database,) = Path(TRACKIO.place()).glob("*.db")
    for file in Path(TRACKIO.place()).glob("*.db*"):
        file.unlink()
    assert sync(["--to", "trackio"]) == 0  # removed by hand: sent again
    assert database.exists()
    assert_whole(log.folder, read(log.folder)["logs"])
