"""The parts of the long proof (tests/endurance.py): what one round of each does, and how many make it whole."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.core import kills
from tests.core.kills import Outcome, Setup
from tests.forge import Cold, Forge

ROOT = Path(__file__).resolve().parents[1]


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
}
