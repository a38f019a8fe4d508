"""What the tests of tracking share: stores, a real server, a door in front of it, and what a journal promises."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from core.common import paths
from core.record import journal
from core.record.journal import Journal
from core.tracking import cursor
from core.tracking import process as process
from core.tracking.api import Mirror, tracking_uri
from core.tracking.client import connect
from core.tracking.destinations import MLFLOW, Destination

ROOT = Path(__file__).resolve().parents[2]
SLOW = 1.0  # s
INF = 1.7976931348623157e308  # what MLflow stores for infinity


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables made, to copy: making them takes a second."""
    folder = tmp_path_factory.mktemp("store")
    connect(f"sqlite:///{folder}/mlflow.db")
    return folder / "mlflow.db"


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a database."""
    monkeypatch.setenv("LABBOOK_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def home(cold: Path, empty_store: Path) -> Path:
    shutil.copy(empty_store, cold)
    return cold


class Server:
    """A real MLflow server on 127.0.0.1, its artifacts in `folder`, and its database unless `database` is a URI."""

    def __init__(self, folder: Path, database: str | None = None):
        self.folder = folder
        self.database = database or f"sqlite:///{folder}/mlflow.db"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        """Until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", self.database]
        command += ["--artifacts-destination", f"{self.folder}/artifacts"]
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("ab") as log:
            self.running = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{self.port}/health"), 300)
        except BaseException:
            self.end(signal.SIGKILL)
            raise

    def end(self, number: int = signal.SIGTERM) -> None:
        """It and its workers."""
        family = [*psutil.Process(self.running.pid).children(recursive=True), psutil.Process(self.running.pid)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(number)
        psutil.wait_procs(family, timeout=10)
        self.running.wait(10)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[int]:
    """The port of a real MLflow server."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder)
    real = Server(folder)
    yield real.port
    real.end()


@pytest.fixture(params=["sqlite", "server"])
def store(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{request.getfixturevalue('server')}")
    return tracking_uri()


@pytest.fixture
def mirrors(warm: None) -> Iterator[Callable[[], Mirror]]:
    """Starts mirrors, and leaves none behind."""
    started: list[Mirror] = []

    def start() -> Mirror:
        started.append(Mirror())
        started[-1].start()
        return started[-1]

    yield start
    for each in started:
        each.finish(0)


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except OSError:
        return False


def wait_for(met: Callable[[], Any], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not met():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def pid(mirror: Mirror) -> int:
    assert mirror._process is not None
    return mirror._process.pid


def kill(mirror: Mirror) -> None:
    os.kill(pid(mirror), signal.SIGKILL)
    assert mirror._process is not None
    mirror._process.wait()


def begin(run: str, **fields: Any) -> Journal:
    """A run's journal, begun by this process."""
    log = Journal(paths.runs() / run)
    log.write("run", **{"id": run, "experiment": "tracking", "pid": os.getpid(), "parent": None} | fields)
    return log


def mirror_now(*logs: Journal, patience: float = 1.0, to: Destination = MLFLOW) -> int:
    """What the process does, in this process; its exit status."""
    mirror = process.Mirror(to, 0, patience)
    mirror.take([*(str(log.folder) for log in logs), ""])
    while (status := mirror.exit_status()) is None:
        mirror.send()
    return status


def runs_of(run: str) -> list[Run]:
    client = MlflowClient(tracking_uri())
    everywhere = [found.experiment_id for found in client.search_experiments(ViewType.ALL)]
    return client.search_runs(everywhere, f"tags.`labbook.run` = '{run}'", ViewType.ALL)


def run_of(run: str) -> Run:
    (found,) = runs_of(run)
    return found


def as_stored(value: float) -> float:
    return math.copysign(INF, value) if math.isinf(value) else value


def points(folder: Path, file: str = journal.FILE) -> dict[str, list[tuple[int, int, str]]]:
    """Name -> (step, time, value) of the first entries, as MLflow should have them; repr makes NaN equal NaN."""
    found: dict[str, dict[int, tuple[int, int, str]]] = {}
    for _, event in journal.read(folder, file):
        if event["event"] == "metrics":
            for name, value in event["values"].items():
                point = (event["step"], event["time"], repr(as_stored(float(value))))
                found.setdefault(name, {}).setdefault(event["step"], point)
    return {name: sorted(steps.values()) for name, steps in found.items()}


def history(run_id: str, name: str) -> list[tuple[int, int, str]]:
    found = MlflowClient(tracking_uri()).get_metric_history(run_id, name)
    return sorted((point.step, point.timestamp, repr(point.value)) for point in found)


def assert_mirrored(log: Journal, status: str = "FINISHED") -> None:
    """One run in MLflow with every first entry of the journal, once, and no other."""
    assert_folder_mirrored(log.folder, status)


def assert_folder_mirrored(folder: Path, status: str = "FINISHED") -> int:
    """As assert_mirrored; how many points that were."""
    run = run_of(folder.name)
    expected = {name: found for file in cursor.SOURCES for name, found in points(folder, file).items()}
    for name in expected:
        assert history(run.info.run_id, name) == expected[name], name
    assert set(run.data.metrics) == set(expected)
    assert run.info.status == status
    return sum(map(len, expected.values()))


class Gate:
    """Forwards 127.0.0.1:<port> to a server while `mode` is "up".

    "down" refuses connections, "hang" accepts and never answers, "error" answers each request with status 500,
    "slow" forwards with SLOW seconds before each answer.
    """

    def __init__(self, target: int, mode: str = "up"):
        self.target = target
        self.mode = "down"
        self._open: list[socket.socket] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._listener: socket.socket | None = None
        self.turn(mode)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def turn(self, mode: str) -> None:
        """Into another mode; connections of the old one are cut."""
        self.mode = mode
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open = []
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        if mode != "down":
            self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=True)
            threading.Thread(target=self._accept, args=(self._listener, mode), daemon=True).start()

    def _accept(self, listener: socket.socket, mode: str) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._open.append(connection)
            if mode == "error":
                threading.Thread(target=_refuse, args=(connection,), daemon=True).start()
            elif mode in ("up", "slow"):
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:  # it is down itself: as it would refuse, and the next one may find it up
                    connection.close()
                    continue
                self._open.append(server)
                wait = SLOW if mode == "slow" else 0
                threading.Thread(target=_pump, args=(connection, server), daemon=True).start()
                threading.Thread(target=_pump, args=(server, connection, wait), daemon=True).start()


def _refuse(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops")
        connection.close()


def _pump(source: socket.socket, sink: socket.socket, wait: float = 0) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            time.sleep(wait)
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
