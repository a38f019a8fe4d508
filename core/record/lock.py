"""The lock of a run, held by the process that trains it. The kernel releases it when that process dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.common.errors import UserError

FILE = "lock"
PATIENCE = 600.0  # seconds to wait before what has been computed for a run is lost
_held: set[Path] = set()  # a POSIX lock does not exclude its own process, so the files locked here are in this set


@contextmanager
def locked(folder: Path, wait: float = 0.0, file: str = FILE) -> Iterator[None]:
    """Hold the lock of a run. Raises UserError if another process, or this one, still holds it after `wait` seconds.
    file: of another lock in its folder.

    A POSIX record lock: unlike flock it does not pass to forked loader workers, which may outlive the trainer.
    """
    place = folder.resolve() / file
    end = time.monotonic() + wait
    while (descriptor := None if place in _held else _acquire(place)) is None and time.monotonic() < end:
        time.sleep(0.05)
    if descriptor is None:
        raise UserError([f"{folder.name}: another process is using this run"])
    _held.add(place)
    try:
        yield
    finally:
        _held.discard(place)
        os.close(descriptor)


def is_free(folder: Path, file: str = FILE) -> bool:
    """Whether no process holds the lock of this run. file: of another lock in its folder."""
    place = folder.resolve() / file
    if place in _held:
        return False
    descriptor = _acquire(place)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


def _acquire(place: Path) -> int | None:
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except OSError:
        os.close(descriptor)
        return None
