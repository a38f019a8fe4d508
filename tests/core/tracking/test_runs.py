"""One run in MLflow for one journal: killed, resumed, moved, deleted, refused."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from core.common import paths
from core.record import journal
from core.tracking import cursor
from core.tracking import process as process
from core.tracking.api import Mirror, held, mirror_status, tracking_uri
from core.tracking.destinations import MLFLOW
from core.tracking.upload import Sent
from tests.support import mlflow_server
from tests.support.mlflow_server import (
    ROOT,
    assert_mirrored,
    begin,
    history,
    kill,
    mirror_now,
    run_of,
    runs_of,
    wait_for,
)

empty_store = mlflow_server.empty_store
cold = mlflow_server.cold
home = mlflow_server.home
mirrors = mlflow_server.mirrors


def test_a_bad_item_takes_nothing_with_it(home: Path) -> None:
    log = begin("refused", parent="nowhere")
    log.write("params", values={"good": "1", "bad(name)": "2", "changed": "1"})
    log.metrics(0, {"good": 1.0, "bad(name)": 2.0, "text": "three"})  # type: ignore[dict-item]
    with (log.folder / journal.FILE).open("ab") as damaged:
        damaged.write(b'{"event": "metr\n')
    log.write("artifact", path="never/written.txt")
    log.write("poem", verse="...")
    log.write("params", values={"changed": "2", "after": "3"})
    log.metrics(1, {"good": 4.0, "bad(name)": 5.0})
    log.close("FINISHED")
    assert mirror_now(log) == 0
    run = run_of("refused")
    assert run.data.params == {"good": "1", "changed": "1", "after": "3"}
    assert [point[0] for point in history(run.info.run_id, "good")] == [0, 1]
    assert run.info.status == "FINISHED"
    found = mirror_status(log.folder)
    assert found.complete
    about = ["parent nowhere", "param bad(name)", "metric text", "metric bad(name)", "event unreadable"]
    about += ["artifact never/written.txt", "event poem", "param changed"]
    assert all(any(note.startswith(each) for note in found.refused) for each in about), found.refused
    assert len(found.refused) == len(about)


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [3, 30])
def test_mirror_killed_at_random(home: Path, mirrors: Callable[[], Mirror], rounds: int) -> None:
    luck = random.Random(rounds)
    log = begin("killed")
    step = 0
    for _ in range(rounds):
        mirror = mirrors()
        mirror.follow(log.folder)
        before = cursor.load(log.folder)
        wait_for(lambda before=before: cursor.load(log.folder) not in (before, None))  # it has begun to send
        deadline = time.monotonic() + luck.uniform(0, 0.5)
        while time.monotonic() < deadline:
            log.metrics(step, {"loss": luck.random(), "top1": luck.random()})
            log.metrics(max(0, step - 9), {"loss": -1.0})  # a step run again
            step += 1
            time.sleep(0.0002)
        kill(mirror)
    log.close("FINISHED")
    assert mirror_now(log) == 0
    assert step > 100 * rounds
    assert_mirrored(log)


@pytest.mark.parametrize("point", ["run created", "batch gathered", "batch sent"])
def test_mirror_killed_at_failpoint(
    home: Path, mirrors: Callable[[], Mirror], monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    log = begin("failpoint")
    for step in range(1500):
        log.metrics(step, {"loss": step / 3, "top1": math.nan})
    monkeypatch.setenv("LABBOOK_FAILPOINT", point)
    mirror = mirrors()
    mirror.follow(log.folder)
    assert mirror._process is not None
    assert mirror._process.wait(20) == -signal.SIGKILL
    interrupted = cursor.load(log.folder)
    assert interrupted is not None
    assert (interrupted.run_id == "") == (point == "run created")
    assert interrupted.journal == 0
    assert len(runs_of("failpoint")) == 1
    monkeypatch.delenv("LABBOOK_FAILPOINT")
    log.close("FINISHED")
    assert mirror_now(log) == 0
    assert_mirrored(log)


TRAINER = """
import os, subprocess, sys, time
from pathlib import Path
from core.record.journal import Journal
from core.tracking.api import Mirror
mirror = Mirror()
mirror.start()
log = Journal(Path(sys.argv[1]))
log.write("run", id="orphan", experiment="tracking", parent=None, pid=os.getpid())
mirror.follow(log.folder)
for step in range(50):
    log.metrics(step, {"loss": 1 / (step + 1)})
assert "mlflow" not in sys.modules and "torch" not in sys.modules
worker = subprocess.Popen(["sleep", "60"], pass_fds=[mirror._process.stdin.fileno()])  # outlives us, and holds the pipe
print(mirror._process.pid, worker.pid, flush=True)
time.sleep(600)
"""


def test_trainer_killed_then_resumed(home: Path) -> None:
    folder = paths.runs() / "orphan"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", TRAINER, str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None
        mirror, worker = (psutil.Process(int(each)) for each in trainer.stdout.readline().split())
        wait_for(lambda: mirror_status(folder).waiting == 0)
        trainer.kill()
        wait_for(lambda: not mirror.is_running())
        worker.kill()
    run = run_of("orphan")
    assert (run.info.status, len(history(run.info.run_id, "loss"))) == ("KILLED", 50)
    assert time.time() - run.info.end_time / 1000 < 120
    assert mirror_status(folder).complete

    log = begin("orphan")  # resumed, from a checkpoint before the last step
    for step in range(40, 60):
        log.metrics(step, {"loss": 1 / (step + 1)})
    assert mirror_now(log) == 1
    assert run_of("orphan").info.status == "RUNNING"
    assert mirror_status(folder).why == "the run is still running"
    log.close("FINISHED")
    assert mirror_now(log) == 0
    assert_mirrored(log)
    assert run_of("orphan").info.run_id == run.info.run_id


def test_followed_again_before_it_writes(home: Path) -> None:
    """A resume announces the run while its journal still says KILLED."""
    log = begin("again")
    log.metrics(0, {"loss": 1.0})
    log.close("KILLED")
    assert mirror_now(log) == 0
    mirror = process.Mirror(MLFLOW, 0, 1.0)
    mirror.take([str(log.folder)])
    for _ in range(5):
        mirror.send()
    log = begin("again")
    log.metrics(1, {"loss": 0.5})
    while mirror.send():
        pass
    assert run_of("again").info.status == "RUNNING"
    log.close("FINISHED")
    while mirror.send():
        pass
    assert_mirrored(log)
    assert not held(log.folder)  # let go of as soon as it ended


def test_child_waits_for_its_parent(home: Path) -> None:
    child, parent = begin("child", parent="parent"), begin("parent")
    child.close("FINISHED")
    assert mirror_now(child, patience=0.2) == 1
    assert mirror_status(child.folder).why == "waiting for its parent parent"
    parent.close("FINISHED")
    assert mirror_now(child, parent) == 0
    assert run_of("child").data.tags["mlflow.parentRunId"] == run_of("parent").info.run_id


def test_another_store_and_a_lost_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = begin("moves")
    log.metrics(0, {"loss": 1.0})
    log.close("FINISHED")
    assert mirror_now(log) == 0
    assert mirror_status(log.folder).complete
    first = run_of("moves").info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/other.db")
    assert mirror_status(log.folder).why == "not sent to this store yet"
    assert mirror_now(log) == 0
    assert mirror_status(log.folder).complete
    assert_mirrored(log)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert mirror_now(log) == 0
    assert mirror_status(log.folder).complete
    assert run_of("moves").info.run_id == first  # found again
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/other.db")
    assert mirror_now(log) == 0
    assert mirror_status(log.folder).complete
    with sqlite3.connect(home / "other.db") as database:  # as `mlflow gc` does
        for table in ("metrics", "latest_metrics", "tags", "params", "runs"):
            database.execute(f"DELETE FROM {table}")
    assert mirror_now(log) == 0
    assert mirror_status(log.folder).complete
    assert_mirrored(log)


def test_deleted_by_hand(home: Path) -> None:
    client = MlflowClient(tracking_uri())
    log = begin("deleted")
    log.metrics(0, {"loss": 1.0})
    assert mirror_now(log) == 1  # this process, its trainer, lives
    run = run_of("deleted").info
    client.delete_run(run.run_id)
    log.metrics(1, {"loss": 0.5})
    log.close("FINISHED")
    assert mirror_now(log) == 1
    assert mirror_status(log.folder).why.startswith("the run was deleted in MLflow")
    client.restore_run(run.run_id)
    assert mirror_now(log) == 0
    assert_mirrored(log)
    client.delete_experiment(run.experiment_id)
    second = begin("second")
    second.close("FINISHED")
    assert mirror_now(second) == 0
    assert client.get_experiment(run.experiment_id).lifecycle_stage == "active"


def test_a_run_deleted_while_it_is_sent(home: Path) -> None:
    log = begin("cut off")
    log.metrics(0, {"loss": 1.0})
    mirror = process.Mirror(MLFLOW, 0, 1.0)
    mirror.take([str(log.folder)])
    while mirror.send():
        pass
    MlflowClient(tracking_uri()).delete_run(run_of("cut off").info.run_id)
    log.metrics(1, {"loss": 0.5})
    log.close("FINISHED")
    mirror.take([""])
    while mirror.exit_status() is None:
        mirror.send()
    assert mirror.exit_status() == 1
    found = mirror_status(log.folder)
    assert found.why.startswith("the run was deleted in MLflow")
    assert (found.waiting, found.refused) == (2, ())


def test_the_first_entry_stands() -> None:
    sent = Sent()
    steps = [0, 5, 10, 5, 7, 7, 11, 0, 3]
    assert [sent.first("loss", step) for step in steps] == [True, True, True, False, True, False, True, False, True]
    assert sent.first("top1", 5)


def test_record_survives_damage_and_hides_passwords(tmp_path: Path) -> None:
    kept = cursor.Record("sqlite:///x.db", "1", "abc", 12, refused=("metric a: no",))
    assert cursor.load(tmp_path) is None
    cursor.save(tmp_path, kept)
    assert cursor.load(tmp_path) == kept
    (tmp_path / cursor.FILE).write_text('{"tracking_uri": "sq')
    assert cursor.load(tmp_path) == cursor.Record("")
    uri = "postgresql://me:sec/ret@host/db?password=secret"
    cursor.save(tmp_path, cursor.Record(uri, problem=f"{uri} is down", refused=(f"no: {uri}",)))
    assert "ret" not in (tmp_path / cursor.FILE).read_text()
    (tmp_path / cursor.FILE).write_text(json.dumps(asdict(replace(kept, tracking_uri=uri))))  # by an earlier version
    assert cursor.load(tmp_path) == replace(kept, tracking_uri="postgresql://host/db?password=***")
