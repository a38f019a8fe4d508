"""The ledger: how often the test split of each data set has been read, and by what.

Each reading makes the next result on the same images a little more optimistic, if it decides what is done next.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from core.common import lines, paths
from core.common.terminal import tell


@dataclass(frozen=True)
class Readings:
    """The readings of one test split. counts: by "run", "evaluate" or "export".  first, last: dates, YYYY-MM-DD."""

    name: str
    digest: str
    counts: Mapping[str, int]
    first: str
    last: str

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def note_reading(digest: str, name: str, by: str, run: str) -> None:
    """Write down that the test split of a data set was read. If that fails, a warning is printed.

    digest, name: of the data set.  by: what read it.  run: id of the run that was measured.
    """
    entry = {"at": time.strftime("%Y-%m-%dT%H:%M:%S"), "digest": digest, "name": name, "by": by, "run": run}
    path = paths.ledger()
    try:
        lines.append(path, [entry])
    except OSError as error:
        tell(f"warning: {path}: {error.strerror}; this reading of the test split is not in the ledger")


def readings() -> dict[str, Readings]:
    """Digest of a data set -> the readings of its test split. Raises UserError."""
    entries = []
    for entry in lines.read(paths.ledger()):
        with suppress(KeyError, TypeError):
            entries.append([str(entry[field]) for field in ("digest", "name", "by", "at")])
    found = {}
    for digest in dict.fromkeys(entry[0] for entry in entries):
        own = [entry for entry in entries if entry[0] == digest]
        dates = sorted(at[:10] for *_, at in own)
        found[digest] = Readings(own[-1][1], digest, Counter(by for _, _, by, _ in own), dates[0], dates[-1])
    return found
