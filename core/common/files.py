"""Writes that are atomic and survive a power failure: first the content is on disk, then the name, then its folder."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from core.common.failpoints import failpoint

# numbers of the OSErrors that say that there is no room: of the disk, of the quota, of a single file
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Context manager: a stream to `<path>.part`, which replaces `path` at the end of the body.

    The file at `path` is complete at all times, also after a power failure: either old or new. What the body has
    written before an exception, such as that of a full disk, is removed.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _rename(part, path)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file atomically: at all times, also after a power failure, it has either its old or its new content."""
    with replacing(path) as stream:
        # names of files may hold bytes that are not UTF-8
        stream.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def place(part: Path, target: Path) -> None:
    """Rename a finished file or folder to its final name. After a power failure, it is complete or does not exist."""
    for inner in sorted(part.iterdir()) if part.is_dir() else ():
        sync(inner)
    sync(part)
    _rename(part, target)


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, such that they exist after a power failure."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync(path.parent)


def _rename(part: Path, target: Path) -> None:
    kind = target.suffix.removeprefix(".")
    failpoint(f"{kind} synced")
    os.replace(part, target)
    failpoint(f"{kind} renamed")
    sync(target.parent)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Returns the hex digest of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
