"""Journals that are written and mirrored while everything around them is killed, locked and switched off."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import psutil

from core.common import paths
from core.record import journal
from core.tracking.api import Mirror, mirror_status, sync
from tests.support.mlflow_server import ROOT, Gate, Server, assert_folder_mirrored, begin, run_of, wait_for

Outage = Callable[[random.Random], None]


@contextlib.contextmanager
def at_home(home: Path, uri: str | None = None) -> Iterator[Path]:
    """This process and those that it starts live in `home` and mirror to `uri`, or to the database there."""
    home.mkdir(parents=True, exist_ok=True)
    settings = {"LABBOOK_HOME": str(home)} | ({"MLFLOW_TRACKING_URI": uri} if uri else {})
    with mock.patch.dict(os.environ, settings):
        if not uri:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        yield home


def locked_database(home: Path) -> Outage:
    """Another writer that keeps the database to itself for a while; unless the mirror holds it for longer still."""

    def outage(luck: random.Random) -> None:
        other = sqlite3.connect(home / "mlflow.db", isolation_level=None, timeout=30)
        with (
            contextlib.closing(other),
            contextlib.suppress(sqlite3.OperationalError),
        ):
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(luck.uniform(0, 3))
            other.execute("ROLLBACK")

    return outage


def closed_gate(gate: Gate, server: Server | None = None) -> Outage:
    """A server that refuses, hangs, fails, is slow, or, where one is given, is killed and started again."""

    def outage(luck: random.Random) -> None:
        mode = luck.choice(["down", "hang", "error", "slow", *(["killed"] if server else [])])
        if mode == "killed":
            assert server is not None
            server.end(signal.SIGKILL)
            server.start()
            return
        gate.turn(mode)
        time.sleep(luck.uniform(0, 2))
        gate.turn("up")

    return outage


def storm(run: str, seed: int, steps: int, blows: int, outage: Outage) -> int:
    """A run of `steps` steps whose writer and mirrors are killed and whose MLflow fails, `blows` times in all.

    How many points it has; every one of them is in MLflow's history, once. Raises AssertionError.
    """
    luck = random.Random(f"storm {seed}")
    folder = paths.runs() / run
    while not _written(folder):
        with _writer(folder, steps) as (writer, mirror):
            while writer.poll() is None and blows:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    writer.wait(luck.uniform(0, 1.5))
                blows -= 1
                blow = luck.choice(["writer", "writer", "mirror", "both", "outage", "outage"])
                if blow in ("mirror", "both"):
                    _kill(mirror)
                if blow in ("writer", "both"):
                    _kill(writer)
                if blow == "outage":
                    outage(luck)
            writer.wait(120)
        if not _written(folder) and luck.random() < 0.3:
            with (folder / journal.FILE).open("ab") as torn:  # what a kill in the middle of a line leaves
                torn.write(b'{"event":"metrics","time":17')
    complete(folder)
    return assert_folder_mirrored(folder)


def complete(folder: Path, timeout: float = 180) -> None:
    """`labbook sync`, as often as somebody would type it."""

    def synced() -> bool:
        sync([folder])
        return mirror_status(folder).complete

    wait_for(synced, timeout)


def started_at_once(count: int) -> None:
    """Runs of `count` invocations that find no database. Raises AssertionError for one lost, twice, or in another's
    way."""
    mirrors = [Mirror() for _ in range(count)]
    logs = [begin(f"cold{index}") for index in range(count)]
    try:
        for log in logs:
            log.write("dataset", name="shared", digest="1", source="x", context="training", profile={})
            log.metrics(0, {"loss": 1.0})
            log.close("FINISHED")
        for mirror in mirrors:
            mirror.start()
        for mirror, log in zip(mirrors, logs, strict=True):
            mirror.follow(log.folder)
        assert [mirror.finish(240) for mirror in mirrors] == [True] * count
    finally:
        for mirror in mirrors:
            mirror.finish(0)
    for log in logs:
        assert_folder_mirrored(log.folder)
        assert len(run_of(log.folder.name).inputs.dataset_inputs) == 1
    assert "; retrying" not in (paths.runs().parent / "mirror.log").read_text()


def _written(folder: Path) -> bool:
    return journal.status(folder) == "FINISHED"


@contextlib.contextmanager
def _writer(folder: Path, steps: int) -> Iterator[tuple[subprocess.Popen[str], psutil.Process | None]]:
    """(a writer, its mirror: None where that was too short-lived to be seen)."""
    command = [sys.executable, "-m", "tests.support.journal_writer", str(folder), str(steps)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        try:
            mirror = None
            with contextlib.suppress(psutil.NoSuchProcess):
                mirror = psutil.Process(int(writer.stdout.readline()))
            yield writer, mirror
        finally:
            writer.kill()


def _kill(process: subprocess.Popen[str] | psutil.Process | None) -> None:
    """psutil's knows the process by its start, too: an id that was given away meanwhile is not harmed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if process is not None:
            process.kill()
