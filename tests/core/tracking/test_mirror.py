"""MLflow holds what the journals hold: on SQLite and on a real server, through outages."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from core.record import journal
from core.tracking import cursor
from core.tracking.api import Mirror, held, mirror_status, run_url, sync
from tests.support import mlflow_server, storm
from tests.support.mlflow_server import Gate, assert_mirrored, begin, kill, pid, run_of, runs_of, wait_for

empty_store = mlflow_server.empty_store
cold = mlflow_server.cold
home = mlflow_server.home
server = mlflow_server.server
store = mlflow_server.store
mirrors = mlflow_server.mirrors


def test_a_run_arrives_whole(store: str, home: Path, mirrors: Callable[[], Mirror]) -> None:
    mirror = mirrors()
    log = begin("whole", name="the name", description="Does it arrive?")
    mirror.follow(log.folder)
    log.write("params", values={"optimizer.lr": "0.1", "long": "x" * 7000} | {f"p{i}": str(i) for i in range(230)})
    log.write("params", values={"optimizer.lr": "0.1"})
    log.write("tags", values={"device": "cpu", "changed": "before"})
    log.write("dataset", name="digits", digest="d" * 64, source="sklearn", context="training", profile={"train": 3})
    for step in range(1200):
        log.metrics(step, {"train/loss": 1 / (step + 1), "val/top1": step / 7})
    log.metrics(7, {"train/loss": 99.0, "late": 1})
    log.metrics(1200, {"train/loss": math.nan, "val/top1": math.inf, "late": -math.inf, "whole": 3})
    log.write("tags", values={"changed": "after"})
    log.artifact("plots/confusion.txt").write_text("1 2\n3 4\n")
    log.log_artifact("plots/confusion.txt")
    wait_for(lambda: (log.folder / cursor.SYSTEM).exists())  # written by the mirror: it is up
    wait_for(lambda: mirror_status(log.folder).waiting == 0)
    assert "libtorch" not in Path(f"/proc/{pid(mirror)}/maps").read_text()
    assert os.getsid(pid(mirror)) != os.getsid(0)  # Ctrl-C does not reach it
    assert mirror_status(log.folder).why == "another process is sending it"
    assert runs_of("whole")[0].info.status == "RUNNING"
    log.close("FINISHED")

    assert mirror.finish()
    assert_mirrored(log)
    run = run_of("whole")
    assert run.data.params["optimizer.lr"] == "0.1"
    assert run.data.params["long"].endswith("(cut; whole in journal.jsonl)")
    assert len(run.data.params) == 232
    assert (
        run.data.tags.items() >= {"device": "cpu", "changed": "after", "mlflow.note.content": "Does it arrive?"}.items()
    )
    assert run.info.run_name == "the name"
    events = [event for _, event in journal.read(log.folder)]
    assert (run.info.start_time, run.info.end_time) == (events[0]["time"], events[-1]["time"])
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("digits", "d" * 8)
    assert json.loads(dataset.dataset.source) == {"uri": "sklearn"}
    assert json.loads(dataset.dataset.profile) == {"train": 3}
    assert [(tag.key, tag.value) for tag in dataset.tags] == [("mlflow.data.context", "training")]
    client = MlflowClient(store)
    local = client.download_artifacts(run.info.run_id, "plots/confusion.txt", str(home))
    assert Path(local).read_text() == "1 2\n3 4\n"
    assert "system/cpu_utilization_percentage" in run.data.metrics
    page = f"#/experiments/{run.info.experiment_id}/runs?compareRunsMode=CHART&workflowType=machine_learning"
    assert run_url(log.folder) == f"{page}&viewStateShareKey=labbook"
    tags = client.get_experiment(run.info.experiment_id).tags
    assert "mlflow.sharedViewState.labbook" in tags
    assert mirror_status(log.folder) == mirror_status(log.folder).__class__("whole", True, 0, "", ())
    assert not list(home.glob("mlruns/*/meta.yaml"))
    if store.startswith("sqlite"):
        assert run.info.artifact_uri == f"{home}/mlruns/{run.info.experiment_id}/{run.info.run_id}/artifacts"


def test_server_down_at_the_start(
    home: Path, server: int, mirrors: Callable[[], Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(server, "down")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.url)
    mirror = mirrors()
    log = begin("late server", name="late")
    mirror.follow(log.folder)
    for step in range(500):
        log.metrics(step, {"loss": float(step)})
    wait_for(lambda: "; retrying" in (home / "mlruns" / "mirror.log").read_text())
    gate.turn("error")
    wait_for(lambda: "500" in (home / "mlruns" / "mirror.log").read_text())
    gate.turn("up")
    wait_for(lambda: mirror_status(log.folder).waiting == 0)
    gate.turn("down")  # in the middle
    log.metrics(500, {"loss": 0.0})
    log.close("FINISHED")
    time.sleep(0.5)
    gate.turn("up")
    assert mirror.finish()
    assert_mirrored(log)


@pytest.mark.parametrize("mode", ["down", "hang"])
def test_server_down_at_the_end(
    home: Path, server: int, mirrors: Callable[[], Mirror], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    gate = Gate(server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.url)
    log = begin(f"outage {mode}")
    log.metrics(0, {"loss": 1.0})
    mirror = mirrors()
    mirror.follow(log.folder)
    wait_for(lambda: (found := cursor.load(log.folder)) and found.journal)
    gate.turn(mode)
    log.metrics(1, {"loss": 0.5})
    log.close("FINISHED")
    began = time.monotonic()
    assert not mirror.finish(timeout=1.0)
    assert time.monotonic() - began < 20
    assert mirror_status(log.folder).waiting > 0
    if mode == "hang":
        return
    (found,) = sync([log.folder], patience=0.5)
    assert not found.complete
    assert found.why.startswith(f"no connection to {gate.url}: ")
    gate.turn("up")
    (found,) = sync([log.folder])
    assert found.complete
    assert_mirrored(log)


@pytest.mark.slow  # test_storm.py has a locked store, too
def test_database_locked_by_another_writer(home: Path, mirrors: Callable[[], Mirror]) -> None:
    log = begin("locked")
    log.metrics(0, {"loss": 1.0})
    with sqlite3.connect(home / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        mirror = mirrors()
        mirror.follow(log.folder)
        wait_for(lambda: "database is locked" in (home / "mlruns" / "mirror.log").read_text(), 60)
        other.execute("ROLLBACK")
    log.close("FINISHED")
    assert mirror.finish()
    assert_mirrored(log)


def test_first_runs_at_once_on_a_cold_store(cold: Path) -> None:
    storm.started_at_once(4)


def test_a_dead_mirror_is_no_ones_trouble(
    home: Path, mirrors: Callable[[], Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = begin("alone")
    mirror = mirrors()
    kill(mirror)
    mirror.follow(log.folder)
    assert not mirror.finish()
    stopped = mirrors()
    os.kill(pid(stopped), signal.SIGSTOP)
    for _ in range(2000):  # more than a pipe holds: who waited for its reader would wait for ever
        stopped.follow(log.folder)
    os.kill(pid(stopped), signal.SIGKILL)
    assert not stopped.finish()
    monkeypatch.setattr(sys, "executable", str(home / "no-such-python"))
    absent = mirrors()
    absent.follow(log.folder)
    assert not absent.finish()


def test_held_run_and_held_pipe(home: Path, mirrors: Callable[[], Mirror]) -> None:
    """sync leaves a held run alone; finish works although a forked loader worker keeps the pipe open."""
    log = begin("held")
    mirror = mirrors()
    mirror.follow(log.folder)
    wait_for(lambda: held(log.folder))
    (found,) = sync([log.folder])
    assert (found.complete, found.why) == (False, "another process is sending it")
    log.close("FAILED")
    assert mirror._process is not None
    assert mirror._process.stdin is not None
    with subprocess.Popen(["sleep", "60"], pass_fds=[mirror._process.stdin.fileno()]) as worker:
        assert mirror.finish(20)
        worker.kill()
    assert_mirrored(log, "FAILED")
