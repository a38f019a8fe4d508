"""Atomic writes and locks between processes, with errors of the file system as DataError."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from core.common.errors import DataError, UserError
from core.common.files import NO_ROOM
from data.reading.progress import printable, say


@contextmanager
def as_data_error(path: Path) -> Iterator[None]:
    """Context manager that converts an OSError into a DataError about `path`."""
    try:
        yield
    except OSError as error:
        raise DataError([f"{printable(str(path))}: {error.strerror or error}"]) from None


@contextmanager
def locked(path: Path, waiting: str) -> Iterator[None]:
    """Context manager that holds the lock file `path`, which the kernel releases if the process dies.  waiting: message
    printed if another process holds it."""
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
    """Context manager that holds the lock file `path` if no other process does; yields whether it does."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(path, timeout=0):
            yield True
    except Timeout:
        yield False


@contextmanager
def writing(folder: Path, needed: int, what: str) -> Iterator[None]:
    """Context manager that converts a failed write in `folder` into a DataError.  needed: bytes that must be free,
    checked first."""
    with as_data_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        refuse_full(folder, needed, what)
        try:
            yield
        except OSError as error:
            if error.errno in NO_ROOM:
                raise _full(folder, needed, what) from None
            raise


def refuse_full(folder: Path, needed: int, what: str, advice: str | None = None) -> None:
    """Raises DataError if less than `needed` bytes are free in a folder.  advice: what to do; None: for the store."""
    if shutil.disk_usage(folder).free < needed:
        raise _full(folder, needed, what, advice)


def _full(folder: Path, needed: int, what: str, advice: str | None = None) -> DataError:
    room = shutil.disk_usage(folder).free
    return DataError(
        [
            f"disk full: {what} needs {f'{needed:,} bytes' if needed else 'more'}, {room:,} are free at {folder}",
            advice or "free disk space there, or set LABBOOK_HOME to a folder on a larger disk",
        ]
    )


def refuse_sheet(sheet: Path, folders: Iterable[Path]) -> None:
    """Raises UserError for an invalid path of --sheet, before the images of these folders are read."""
    wrong = []
    if sheet.suffix.lower() != ".png":
        wrong.append(f"--sheet {sheet}: the file name must end in .png")
    if not sheet.absolute().parent.is_dir():
        wrong.append(f"--sheet {sheet}: the folder {sheet.parent} does not exist")
    for path in folders:
        if path.is_dir() and sheet.resolve().is_relative_to(path.resolve()):
            wrong.append(f"--sheet {sheet}: the file must be outside the image folder {path}")
    if wrong:
        raise UserError(wrong)
