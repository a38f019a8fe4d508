"""Every point of a run that trains arrives in MLflow once: through kills of both sides, a locked store, outages."""

from __future__ import annotations

import itertools
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from core.record import journal
from core.runs.trained import Run
from core.tracking.api import mirror_status
from tests.support import mlflow_server, storm
from tests.support.forge import Forge, Process
from tests.support.mlflow_server import Gate, assert_folder_mirrored, history, points, run_of, wait_for

empty_store = mlflow_server.empty_store
cold = mlflow_server.cold
home = mlflow_server.home
server = mlflow_server.server

PROGRAM = "experiments.tiny"
WORDS = (PROGRAM, "--epochs", "2", "--limit", "300", "--threads", "1", "--checkpoint_every", "3")
SHORTEST_WAIT = 9000  # ms; whoever waited for MLflow would wait for a request (10 s) or for the mirror's end (30 s)
Start = Callable[..., Process]


@pytest.fixture
def start(forge: Forge, home: Path) -> Start:
    """Starts a command line in the repository, mirroring to what $MLFLOW_TRACKING_URI says."""

    def begin(*words: str, **env: str) -> Process:
        return forge.start(*words, env={"LABBOOK_HOME": str(home), **env}, cwd=mlflow_server.ROOT)

    return begin


def folder_in(home: Path) -> Path | None:
    found = [path.parent for path in (home / "mlruns" / "runs").glob(f"*/{journal.FILE}")]
    return found[0] if found else None


def steps_in(home: Path) -> int:
    folder = folder_in(home)
    return max(journal.history(folder).get("step/loss", {0: 0.0})) if folder else 0


def has_trained(home: Path, process: Process) -> Path:
    """Once the journal says FINISHED: training, validation and test have waited for nobody."""

    def finished() -> bool:
        assert not process.ended, process.text
        folder = folder_in(home)
        return folder is not None and Run(folder).status == "FINISHED"

    wait_for(finished, 90)
    folder = folder_in(home)
    assert folder is not None
    times = [event["time"] for _, event in journal.read(folder)]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert max(pauses) < SHORTEST_WAIT, max(pauses)
    return folder


@pytest.mark.parametrize("point", [pytest.param("batch gathered", marks=pytest.mark.slow), "batch sent"])
def test_trainer_and_mirror_killed_then_synced_then_resumed(point: str, start: Start, home: Path) -> None:
    trainer = start(*WORDS, LABBOOK_FAILPOINT=point)  # the mirror dies there
    wait_for(lambda: steps_in(home) >= 5, 60)
    trainer.kill()
    assert trainer.wait() == -signal.SIGKILL
    folder = folder_in(home)
    assert folder is not None
    wait_for(lambda: not mirror_status(folder).why.startswith("another process"), 60)
    with (folder / journal.FILE).open("ab") as torn:
        torn.write(b'{"event":"metrics","ti')
    # a mirror that the trainer had just started may begin only now, and sends what there is
    wait_for(lambda: start("core", "sync").wait() == 0, 90)
    before_outage = points(folder)
    assert len(before_outage["step/loss"]) >= 5
    assert_folder_mirrored(folder, "KILLED")

    resumed = start(PROGRAM, "resume")
    assert resumed.wait() == 0, resumed.text
    assert_folder_mirrored(folder)
    run = run_of(folder.name).info.run_id
    for name, before in before_outage.items():
        assert set(before) <= set(history(run, name)), name  # what had arrived still stands, as it was


def assert_arrives(start: Start, trainer, folder: Path) -> None:
    """The run ends well, and after a sync the store has all of it."""
    assert trainer.wait() == 0, trainer.text
    synced = start("core", "sync", folder.name)
    assert synced.wait() == 0, synced.text
    assert_folder_mirrored(folder)


def test_a_run_does_not_wait_for_a_locked_store(start: Start, home: Path) -> None:
    other = sqlite3.connect(home / "mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        trainer = start(*WORDS)
        folder = has_trained(home, trainer)
        assert mirror_status(folder).waiting > 0
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert_arrives(start, trainer, folder)


@pytest.mark.parametrize(
    "mode", [pytest.param("down", marks=pytest.mark.slow), "hang", pytest.param("error", marks=pytest.mark.slow)]
)
def test_a_run_does_not_wait_for_a_server_that_fails_from_start_to_end(
    mode: str, start: Start, home: Path, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(server, mode)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.url)
    trainer = start(*WORDS)
    folder = has_trained(home, trainer)
    assert mirror_status(folder).waiting > 0
    gate.turn("up")
    assert_arrives(start, trainer, folder)


@pytest.mark.slow
def test_a_run_does_not_wait_for_a_slow_server_that_fails_in_the_middle(
    start: Start, home: Path, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(server, "slow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.url)
    trainer = start(*WORDS[:2], "30", *WORDS[3:])
    wait_for(lambda: steps_in(home) >= 4, 60)
    gate.turn("hang")
    folder = has_trained(home, trainer)
    gate.turn("slow")
    assert mirror_status(folder).waiting > 0
    gate.turn("up")
    assert_arrives(start, trainer, folder)


@pytest.mark.slow
def test_a_storm_over_a_database(home: Path) -> None:
    assert storm.storm("storm", 0, 200, 4, storm.locked_database(home)) > 400


@pytest.mark.slow
def test_a_storm_over_a_server(home: Path, server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.url)
    assert storm.storm("storm", 1, 200, 4, storm.closed_gate(gate)) > 400
