"""The parts of the long proof (tests/endurance.py): what one round of each does, and how many make it whole."""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.tracking.client import connect
from tests.support import kills, mistakes, mutations, storm
from tests.support.forge import Cold, Forge
from tests.support.kills import Outcome, Setup
from tests.support.mlflow_server import Gate, Server

ROOT = Path(__file__).resolve().parents[2]


class Bench:
    """What rounds share, made when first needed. known: results that outlive a round and this process."""

    def __init__(self, known: dict[str, Any]):
        self.known = known
        self.open = contextlib.ExitStack()
        self._made: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def starter(self, cold: bool) -> kills.Starter:
        kind = Cold if cold else Forge
        return self.once(kind.__name__, lambda: self.open.enter_context(contextlib.closing(kind()))).start

    def undisturbed(self, number: int, cold: bool, home: Path) -> Outcome:
        """Of a declaration of this code: an entry made by other code is of no use."""
        key = f"undisturbed {number} {'cold' if cold else 'forged'} {self.once('code', _code)}"
        if key not in self.known:
            self.known[key] = asdict(kills.undisturbed(self.starter(cold), kills.declaration(number), home))
        found = self.known[key]
        return Outcome(**found | {"artifacts": tuple(found["artifacts"])})

    def store(self) -> Path:
        """A database with its tables made, to copy."""

        def make() -> Path:
            folder = Path(self.open.enter_context(tempfile.TemporaryDirectory(prefix="endurance-store-")))
            connect(f"sqlite:///{folder}/mlflow.db")
            return folder / "mlflow.db"

        return self.once("store", make)

    def server(self) -> tuple[Server, Gate]:
        """A real server and the gate before it, open."""

        def make() -> tuple[Server, Gate]:
            folder = Path(self.open.enter_context(tempfile.TemporaryDirectory(prefix="endurance-server-")))
            shutil.copy(self.store(), folder)
            server = Server(folder)
            self.open.callback(server.end)
            return server, Gate(server.port)

        server, gate = self.once("server", make)
        if gate.mode != "up":  # a round was left in an outage
            gate.turn("up")
        return server, gate

    def close(self) -> None:
        self.open.close()


@dataclass(frozen=True)
class Part:
    """play(bench, round's number, empty folder) -> (how much it adds to the count, failures)."""

    play: Callable[[Bench, int, Path], tuple[int, list[str]]]
    size: int  # what a round adds
    target: int


def _killed(bench: Bench, number: int, folder: Path, count: int) -> tuple[int, list[str]]:
    luck = random.Random(f"kills {count} {number}")
    declared = luck.randrange(kills.DECLARATIONS)
    cold = declared % 5 == 0  # so that some die while they import
    expected = bench.undisturbed(declared, cold, folder / "undisturbed")
    setup = Setup(kills.declaration(declared), kills.launch(luck))
    try:
        kills.killed(bench.starter(cold), setup, folder / "killed", luck, count, expected)
    except kills.Differs as difference:
        return 0, [f"{' '.join(setup.words)}\n{difference}"]
    return count, []


def one_kill(bench: Bench, number: int, folder: Path) -> tuple[int, list[str]]:
    """A run killed once."""
    return _killed(bench, number, folder, 1)


def ten_kills(bench: Bench, number: int, folder: Path) -> tuple[int, list[str]]:
    """A run killed ten times."""
    return _killed(bench, number, folder, 10)


def points(bench: Bench, number: int, folder: Path) -> tuple[int, list[str]]:
    """A journal of 5,000 points, in turn into a database and onto a server, through kills and outages."""
    with contextlib.ExitStack() as stack:
        if number % 2:
            server, gate = bench.server()
            stack.enter_context(storm.at_home(folder, gate.url))
            outage = storm.closed_gate(gate, server)
        else:
            stack.enter_context(storm.at_home(folder))
            shutil.copy(bench.store(), folder / "mlflow.db")
            outage = storm.locked_database(folder)
        # another name each time: the server keeps what an earlier process of this proof sent under this number
        return storm.storm(f"storm-{number}-{time.time_ns()}", number, 2500, 8, outage), []


def images(bench: Bench, number: int, folder: Path) -> tuple[int, list[str]]:
    """500 damaged image files."""
    wrong = mutations.examine(500 * number, 500, folder)
    return 500 - len(wrong), wrong


def misspelt(bench: Bench, number: int, folder: Path) -> tuple[int, list[str]]:
    """1000 command lines with a mistake."""
    wrong = mistakes.refused(number + 1, 1000)
    return 1000 - len(wrong), wrong


def cold(bench: Bench, number: int, folder: Path) -> tuple[int, list[str]]:
    """16 invocations at once that find no database."""
    with storm.at_home(folder):
        storm.started_at_once(16)
    return 16, []


def _code() -> str:
    """Digest of the sources that a run consists of."""
    digest = hashlib.sha256()
    for room in ("core", "data", "experiments"):
        for path in sorted((ROOT / room).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


PARTS = {
    "kills": Part(one_kill, 1, 100),
    "deep": Part(ten_kills, 10, 10),
    "points": Part(points, 5000, 100_000),
    "images": Part(images, 500, 10_000),
    "mistakes": Part(misspelt, 1000, 20_000),
    "cold": Part(cold, 16, 16),
}
