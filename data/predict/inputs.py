"""The images to predict: files, folders, archives, tables, HDF5 files and a list on standard input, read in bounded
memory."""

from __future__ import annotations

import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.common.errors import UserError
from core.common.text import natural
from data.hdf5 import unlabeled
from data.kinds import is_hdf5
from data.reading import archive, ingest, rows, tables
from data.reading.decode import SUFFIXES, UNSUPPORTED, Conversion, Unreadable, decode, fitted
from data.reading.frame import Frame
from data.reading.progress import printable


@dataclass(frozen=True)
class Image:
    """An image of the input, uint8 [H, W, 3], or the reason why there is none. path: as it is written to the
    result."""

    path: str
    pixels: np.ndarray | None
    reason: str = ""


@dataclass(frozen=True)
class Reading:
    """How inputs are read.

    frame: what is cut from them.  how: conversion of their pixels.  column: with the paths, of tables.  dataset: of the
    images, of HDF5 files.
    """

    frame: Frame
    how: Conversion
    column: str = "path"
    dataset: str = "images"


def images(places: Sequence[str], reading: Reading, done: Mapping[str, int]) -> Iterator[list[Image]]:
    """Decode the images of all places in threads, in the order of the places; yields them in batches.

    done: how often each path is left out.  Raises UserError for a place that cannot be read.
    """
    left = Counter(done)

    def remaining() -> Iterator[tuple[str, ingest.Stored]]:
        for name, content in contents(places, reading):
            if left[name]:
                left[name] -= 1  # a path that is mentioned twice has two rows, also after an interruption
            else:
                yield name, content

    def job(batch: list[tuple[str, ingest.Stored]]) -> list[Image]:
        return [image_of(name, content, reading) for name, content in batch]

    yield from ingest.in_threads(job, ingest.batches(remaining()))


def contents(places: Sequence[str], reading: Reading) -> Iterator[tuple[str, ingest.Stored]]:
    """(path, content) of each image of all places. Raises UserError, also for a place without images."""
    for place in places:
        if place == "-":
            for line in map(str.rstrip, sys.stdin):
                if line:
                    path = rows.on_this_system(line, Path())
                    yield path, Path(path)
        else:
            yield from _of(Path(place), reading)


def _of(place: Path, reading: Reading) -> Iterator[tuple[str, ingest.Stored]]:
    """Raises UserError."""
    suffix = place.suffix.lower()
    if suffix in SUFFIXES | UNSUPPORTED and not place.is_dir():
        yield str(place), place
    elif suffix in tables.SUFFIXES:
        for name in rows.paths(place, reading.column):
            path = os.path.join(place.parent, rows.on_this_system(name, place.parent))
            yield path, Path(path)
    else:
        found = False
        for path, content in unlabeled(place, reading.dataset) if is_hdf5(place) else _members(place, reading):
            found = True
            yield path, content
        if not found:
            raise UserError([f"{printable(str(place))} contains no images"])


def _members(place: Path, reading: Reading) -> Iterator[tuple[str, ingest.Stored]]:
    """The images of a folder, in the order of the numbers in their names, as frames of a video have them; or of an
    archive, in its order. Raises UserError."""
    for member, content in archive.members(place, _is_asked, order=natural):
        if member.name.endswith(".tar") and isinstance(content, Path):  # a folder of shards
            yield from _members(content, reading)
        elif isinstance(content, bytes | Path):
            yield os.path.join(place, member.name), content


def _is_asked(member: archive.Member) -> bool:
    """Whether a member is an image, of whatever format, or a tar in a folder."""
    suffix = os.path.splitext(member.name)[1].lower()
    wanted = suffix in SUFFIXES | UNSUPPORTED or (suffix == ".tar" and member.mtime_ns > 0)
    return wanted and not member.folder and not archive.hidden(member.name)


def image_of(path: str, content: ingest.Stored, reading: Reading) -> Image:
    """The decoded image, or the reason why there is none."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in UNSUPPORTED:
        return Image(path, None, f"the format {suffix} is not supported; convert the file to JPEG or PNG")
    try:
        raw = whole(content) if isinstance(content, Path) else content
        if isinstance(raw, np.ndarray):
            return Image(path, fitted(raw, reading.frame)[0])
        assert isinstance(raw, bytes)
        return Image(path, decode(raw, path, reading.frame, reading.how))
    except Unreadable as error:
        return Image(path, None, error.lines[0].removeprefix(f"{printable(path)}: "))
    except OSError as error:
        return Image(path, None, error.strerror or str(error))
    except ValueError as error:  # a path that cannot be one
        return Image(path, None, str(error))


def whole(path: Path) -> bytes:
    """The content of a file. Raises OSError, and ValueError for what is no file of a reasonable size."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if status.st_size > archive.MEMBER_LIMIT:
        raise ValueError(f"{status.st_size:,} bytes are more than the limit of {archive.MEMBER_LIMIT:,}")
    return path.read_bytes()


def has_files(place: str) -> bool:
    """Whether each image of a place is a file, and not a member of an archive or of an HDF5 file. A folder may still
    hold shards."""
    path = Path(place)
    return place == "-" or path.is_dir() or path.suffix.lower() in {*SUFFIXES, *UNSUPPORTED, *tables.SUFFIXES}


def refuse_missing(places: Sequence[str]) -> None:
    """Raises UserError with all places that do not exist."""
    missing = [place for place in places if place != "-" and not Path(place).exists()]
    if missing:
        raise UserError([f"{printable(place)}: no such file or folder" for place in missing])
