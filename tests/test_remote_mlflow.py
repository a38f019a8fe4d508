"""A shared MLflow server (PostgreSQL, artifacts through the server) gets what a store of one's own gets.

The command lines are real, and so are the databases; what is there is asked of the server alone.
"""

from __future__ import annotations

import re
import secrets
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as Mirrored

from core.record import journal, provenance
from core.runs.trained import load
from core.tracking import cursor
from tests.support import mlflow_server, postgresql
from tests.support.mlflow_server import assert_folder_mirrored, wait_for

SECRET = secrets.token_hex(8)  # drawn: a record holds the sources, this one with them
SMALL = ("--epochs", "1", "--limit", "64", "--threads", "1")


@dataclass
class Remote:
    """The server as the machine of a researcher knows it."""

    server: mlflow_server.Server
    uri: str  # with user and password, which no record may show

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with postgresql.served("mlflow", SECRET) as database:
        uri = f"postgresql+psycopg://labbook:{SECRET}@127.0.0.1:{database.port}/mlflow"
        server = mlflow_server.Server(folder, uri)
        yield Remote(server, f"http://{SECRET}:{SECRET}@127.0.0.1:{server.port}")
        server.end(signal.SIGKILL)


@pytest.fixture
def remote(served, home, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.uri)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    yield served
    assert not list(home.glob("*.db")), "a store of one's own was used"
    assert not reported_in(home)


def typed(forge, *words: str) -> str:
    """What a command that succeeds prints."""
    status, text = forge.run(*words, timeout=240)
    assert status == 0, text
    assert SECRET not in text
    return text


def reported_in(home: Path) -> list[Path]:
    """Files that show the user or the password."""
    files = [path for path in home.rglob("*") if path.is_file()]
    return [path for path in files if SECRET.encode() in path.read_bytes()]


def folders(home: Path) -> list[Path]:
    return sorted(path.parent for path in (home / "mlruns" / "runs").glob(f"*/{journal.FILE}"))


def arrived(folder: Path, client: MlflowClient, place: Path) -> Mirrored:
    """The run as the server has it, which must be all that its folder holds: metrics, params, tags and files."""
    assert_folder_mirrored(folder, load(folder).status)
    run = mlflow_server.run_of(folder.name)
    journaled = {kind: {} for kind in ("params", "tags")}
    for _, event in journal.read(folder):
        if event["event"] in journaled:
            journaled[event["event"]] |= event["values"]
        elif event["event"] == "artifact":
            local = client.download_artifacts(run.info.run_id, event["path"], str(place))
            assert Path(local).read_bytes() == (folder / "artifacts" / event["path"]).read_bytes(), event["path"]
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert run.data.params == journaled["params"]
    assert run.data.tags.items() >= journaled["tags"].items()
    return run


def test_a_run_is_on_the_server_whole_and_the_end_names_its_page(remote, home, forge, tmp_path):
    text = typed(forge, "experiments.digits_cnn", *SMALL)
    assert re.search(rf"{remote.address}/#/experiments/\d+/runs", text), text
    (folder,) = folders(home)
    run = arrived(folder, MlflowClient(remote.address), tmp_path)
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer"] == "SGD"
    assert run.data.tags["mlflow.note.content"].startswith("How far does a small CNN get")


@pytest.mark.parametrize(
    "uri",
    ["http://{0}:{0}@127.0.0.1:9", "http://127.0.0.1:9/x?password={0}", "http://{0}:" + 460 * "x" + "{0}@127.0.0.1:9"],
)
def test_an_outage_does_not_tell_the_password(uri, home, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(SECRET))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    log = mlflow_server.begin("away")
    log.close("FINISHED")
    assert mlflow_server.mirror_now(log, patience=0.5) == 1
    found = cursor.load(log.folder)
    assert found is not None
    assert "127.0.0.1:9" in found.problem
    assert SECRET not in "".join(capfd.readouterr())
    assert not reported_in(home)


def test_a_password_typed_is_not_recorded(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["search", "--storage", f"postgresql://me:{SECRET}@lab/studies"])
    assert provenance.command().endswith("--storage postgresql://lab/studies")


@pytest.mark.slow
def test_searched_compared_and_done_again(remote, home, forge, tmp_path):
    client = MlflowClient(remote.address)
    typed(forge, "experiments.digits_cnn", *SMALL)
    (first,) = folders(home)
    typed(forge, "experiments.digits_cnn", *SMALL, "--variant", "plain", "--seeds", "2")
    typed(forge, "experiments.digits_cnn", "search", *SMALL, "--trials", "2")
    assert "plain" in typed(forge, "core", "compare", "digits_cnn")
    assert "identical" in typed(forge, "core", "rerun", first.name)
    assert re.search(r"(\d+) of \1 runs are complete in " + remote.address, typed(forge, "core", "sync"))

    runs: dict[str, Any] = {folder.name: arrived(folder, client, tmp_path) for folder in folders(home)}
    assert len(runs) == 1 + 3 + 3 + 1
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for name, run in runs.items():
        above = load(name).record["parent"]
        assert run.data.tags.get("mlflow.parentRunId") == (above and runs[above].info.run_id), name
    assert sum("mlflow.parentRunId" in run.data.tags for run in runs.values()) == 4


@pytest.mark.slow
def test_what_a_killed_server_missed_is_sent_by_sync(remote, home, forge, tmp_path):
    words = ("experiments.digits_cnn", "--epochs", "60", "--limit", "320", "--threads", "1", "--stopping", "none")
    process = forge.start(*words)
    wait_for(lambda: any(mlflow_server.runs_of(folder.name) for folder in folders(home)), 60)
    remote.server.end(signal.SIGKILL)
    try:
        assert process.wait(180) == 0, process.text
        assert "to send the rest: labbook sync" in process.text
        assert SECRET not in process.text
        status, text = forge.run("core", "sync")
        assert (status, SECRET in text) == (1, False), text
    finally:
        remote.server.start()
    (folder,) = folders(home)
    assert mlflow_server.run_of(folder.name).info.status == "RUNNING"
    assert f"1 of 1 runs are complete in {remote.address}" in typed(forge, "core", "sync")
    assert arrived(folder, MlflowClient(remote.address), tmp_path).info.status == "FINISHED"
