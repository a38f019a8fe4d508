"""Files that are whole or absent, and what must last through a power cut."""

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
    """A stream to `<path>.part`, which takes the place of the file at `path` at the end of the body: that file is
    always the old one or the new one, and whole. lasting: also after a power cut, as `place` says."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as stream:
        yield stream
        if lasting:
            stream.flush()
            os.fsync(stream.fileno())
    _rename(part, path, lasting)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that is always the old one or the new one, and whole."""
    with replacing(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def place(part: Path, target: Path) -> None:
    """Give a finished file or folder its name. It survives a power cut whole or not at all."""
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
    """Bring a file, or the names in a folder, to the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
