"""Files that are whole or absent, one process at a time."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.common.errors import DataError
from data.reading.terminal import printable, say


@contextmanager
def as_data_error(path: Path) -> Iterator[None]:
    """Turn what the system refuses at `path` into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError([f"{printable(str(path))}: {error.strerror or error}"]) from None


@contextmanager
def locked(path: Path, waiting: str) -> Iterator[None]:
    """Hold the lock at `path`; the kernel lets go of it when the process dies. waiting: said if another holds it."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    with as_data_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(waiting)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def if_free(path: Path) -> Iterator[bool]:
    """Hold the lock at `path` if nobody does. Whether it is held."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(path, timeout=0):
            yield True
    except Timeout:
        yield False


@contextmanager
def writing(folder: Path, needed: int, what: str) -> Iterator[None]:
    """Turn a failed write below `folder` into a DataError. needed: bytes, checked before anything is written."""
    with as_data_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < needed:
            raise _full(folder, needed, what)
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _full(folder, needed, what) from None
            raise


def _full(folder: Path, needed: int, what: str) -> DataError:
    room = shutil.disk_usage(folder).free
    return DataError(
        [
            f"disk full: {what} takes {needed:,} bytes, {room:,} are free at {folder}",
            "make room there, or point LABBOOK_HOME to a larger disk",
        ]
    )
