"""What a mirror needs of a tracker: a run is opened, gets params, tags, metrics, data sets and artifacts, and a status.

Each call is for one run, whose Record says how much of it was sent before. A call returns the entries that the tracker
will never take, with the reason; it raises anything else, and is then made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from core.tracking.cursor import Record


class Deleted(Exception):
    """The run was deleted by a user: it is skipped until it is restored."""


class Missing(Exception):
    """The tracker lacks what was sent before: the mirror sends the run again from the beginning."""


class Waits(Exception):
    """The run cannot be opened before something else is there, such as its parent."""


@dataclass(frozen=True)
class Point:
    """A value of a metric. time: ms since 1970."""

    name: str
    value: float
    time: int
    step: int


class Tracker(Protocol):
    """A place for runs. One that cannot take an entry twice without harm notes in `Record.position` what it has."""

    def open(self, folder: Path, event: Mapping[str, Any], record: Record, seek: bool) -> Record:
        """Find the run of a record, or create one for the "run" event of its journal. Returns the record with its id.

        seek: an earlier mirror may have created it without a note of its id. Raises Deleted, Missing and Waits.
        """

    def params(self, record: Record, values: Mapping[str, str]) -> list[str]: ...

    def tags(self, record: Record, values: Mapping[str, str]) -> list[str]: ...

    def metrics(self, record: Record, points: Sequence[Point]) -> list[str]: ...

    def dataset(self, record: Record, event: Mapping[str, Any]) -> list[str]: ...

    def artifact(self, record: Record, path: Path, name: str) -> list[str]:
        """Send a file. name: relative, with slashes."""

    def status(self, record: Record, status: str, time: int) -> None: ...

    def kept(self, record: Record) -> Record:
        """Bring what was sent to disk. Returns the record with the position of its end."""

    def let_go(self, record: Record) -> Record:
        """End what is kept open for a run, of which no more entries are known to follow. Returns the record to keep."""

    def check(self, record: Record) -> None:
        """Raises Deleted or Missing if the run does not accept entries any more."""

    def is_permanent(self, error: Exception) -> bool:
        """Whether the same call would always fail."""

    def close(self) -> None:
        """Let go of all runs; the process ends."""
