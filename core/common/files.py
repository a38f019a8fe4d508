"""Atomic writes, and writes that survive a power failure."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from core.common.failpoints import failpoint


@contextmanager
def replacing(path: Path, lasting: bool = False) -> Iterator[BinaryIO]:
    """Context manager: a stream to `<path>.part`, which replaces `path` at the end of the body.

    The file at `path` is complete at all times, either old or new. lasting: also after a power failure.
    """
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as stream:
        yield stream
        if lasting:
            stream.flush()
            os.fsync(stream.fileno())
    _rename(part, path, lasting)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file atomically: at all times, it has either its old or its new content."""
    with replacing(path) as stream:
        # names of files may hold bytes that are not UTF-8
        stream.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def place(part: Path, target: Path) -> None:
    """Rename a finished file or folder to its final name. After a power failure, it is complete or does not exist."""
    for inner in sorted(part.iterdir()) if part.is_dir() else ():
        sync(inner)
    sync(part)
    _rename(part, target, lasting=True)


def _rename(part: Path, target: Path, lasting: bool) -> None:
    kind = target.suffix.removeprefix(".")
    failpoint(f"{kind} synced")
    os.replace(part, target)
    failpoint(f"{kind} renamed")
    if lasting:
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
