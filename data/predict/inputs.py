"""The images to predict: files, folders, archives, tables and a list on standard input, read in bounded memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.common.errors import UserError
from data.reading import archive, ingest, rows, tree
from data.reading.decode import SUFFIXES, Conversion, Unreadable, decode
from data.reading.progress import printable


@dataclass(frozen=True)
class Image:
    """An image of the input, uint8 [size, size, 3], or the reason why there is none. path: as it is written to the
    result."""

    path: str
    pixels: np.ndarray | None
    reason: str = ""


def images(places: Sequence[str], size: int, how: Conversion, done: Set[str]) -> Iterator[list[Image]]:
    """Decode the images of all places in threads, in the order of the places; yields them in batches.

    done: paths to leave out.  Raises UserError for a place that cannot be read at all.
    """
    names: list[str] = []  # of the images that are being decoded, by number

    def numbered() -> Iterator[tuple[int, ingest.Stored]]:
        for name, content in contents(places):
            if name not in done:
                names.append(name)
                yield len(names) - 1, content

    def job(batch: list[tuple[int, ingest.Stored]]) -> list[Image]:
        return [_image(names[number], content, size, how) for number, content in batch]

    yield from ingest.in_threads(job, ingest.batches(numbered()))


def contents(places: Sequence[str]) -> Iterator[tuple[str, bytes | Path]]:
    """(path, content) of each image of all places. Raises UserError."""
    for place in places:
        if place == "-":
            yield from ((line, Path(line)) for line in map(str.rstrip, sys.stdin) if line)
        else:
            yield from _of(Path(place))


def _of(place: Path) -> Iterator[tuple[str, bytes | Path]]:
    """Raises UserError."""
    suffix = place.suffix.lower()
    if suffix in SUFFIXES and not place.is_dir():
        yield str(place), place
    elif suffix in rows.SUFFIXES:
        yield from _of_table(place)
    else:
        for member, content in archive.members(place, tree.is_image):
            if isinstance(content, bytes | Path):
                yield os.path.join(place, member.name), content


def _of_table(table: Path) -> Iterator[tuple[str, bytes | Path]]:
    for name in rows.paths(table):
        path = name if os.path.isabs(name) else os.path.join(table.parent, name)
        yield path, Path(path)


def _image(path: str, content: ingest.Stored, size: int, how: Conversion) -> Image:
    try:
        raw = content.read_bytes() if isinstance(content, Path) else content
        assert isinstance(raw, bytes)
        return Image(path, decode(raw, path, size, how))
    except Unreadable as error:
        return Image(path, None, error.lines[0].removeprefix(f"{printable(path)}: "))
    except OSError as error:
        return Image(path, None, error.strerror or str(error))


def refuse_missing(places: Sequence[str]) -> None:
    """Raises UserError with all places that do not exist."""
    missing = [place for place in places if place != "-" and not Path(place).exists()]
    if missing:
        raise UserError([f"{printable(place)}: no such file or folder" for place in missing])
