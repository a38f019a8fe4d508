"""pixels.npy as a file that grows by the contents of images, and is continued after its process was killed.

progress.jsonl beside it has a line for each batch: rows, hashes, areas and sizes of its images, and the CRC-32 of their
contents, so that what a power cut has left of a batch is noticed.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from data.reading import disk

PROGRESS = "progress.jsonl"
_START = 128  # bytes of the header of the array
_TRUSTED = 128  # images after which their mean size is that of the others


class Kept(NamedTuple):
    """An image that is in the file.  hash: see Recipe.  area: of the original, in pixels.  place: (offset, size)."""

    hash: str
    area: int
    place: tuple[int, int]


class Growing:
    """The file as it is now.  count: images that it will have.  rows: those that it has."""

    def __init__(self, folder: Path, file: IO[bytes], log: IO[bytes], count: int):
        self.folder, self.file, self.log, self.count = folder, file, log, count
        self.rows: dict[int, Kept] = {}
        self.end = 0
        good = 0
        file.seek(_START)
        for line in log:
            if not self._again(line):
                break
            good += len(line)
        log.seek(good)
        log.truncate()
        file.seek(_START + self.end)
        file.truncate()

    def add(self, hashes: Sequence[tuple[int, str]], areas: Sequence[int], contents: Sequence[bytes]) -> None:
        """Append the contents of a batch. Raises OSError, and DataError if the disk cannot hold the rest."""
        if not hashes:
            return
        together = b"".join(contents)
        self.file.write(together)
        self.file.flush()
        rows, digests = zip(*hashes, strict=True)
        sizes = [len(content) for content in contents]
        facts = {"rows": rows, "hashes": digests, "areas": areas, "sizes": sizes, "crc": zlib.crc32(together)}
        self.log.write(json.dumps(facts).encode() + b"\n")
        self.log.flush()
        self._note(facts)
        if len(self.rows) >= _TRUSTED:
            rest = (self.count - len(self.rows)) * self.end // len(self.rows)
            disk.refuse_full(self.folder, rest, f"the rest of {self.count:,} reduced images")

    def finish(self) -> None:
        """Make the file an array, uint8 [bytes], on the disk."""
        header = io.BytesIO()
        described = {"descr": "|u1", "fortran_order": False, "shape": (self.end,)}
        np.lib.format.write_array_header_1_0(header, described)
        assert header.tell() == _START
        self.file.seek(0)
        self.file.write(header.getvalue())
        self.file.flush()
        os.fsync(self.file.fileno())

    def _again(self, line: bytes) -> bool:
        """Take over a batch of an earlier process; whether it is whole."""
        try:
            facts = json.loads(line)
            contents = self.file.read(sum(facts["sizes"]))
        except ValueError:
            return False
        if len(contents) < sum(facts["sizes"]) or zlib.crc32(contents) != facts["crc"]:
            return False
        self._note(facts)
        return True

    def _note(self, facts: dict[str, Any]) -> None:
        for row, digest, area, size in zip(facts["rows"], facts["hashes"], facts["areas"], facts["sizes"], strict=True):
            self.rows[row] = Kept(digest, area, (self.end, size))
            self.end += size


@contextmanager
def growing(folder: Path, count: int) -> Iterator[Growing]:
    """Context manager: folder/pixels.npy, with what an earlier process left of it. Raises DataError if the disk is
    full."""
    with disk.writing(folder, 0, f"the cache of {count:,} reduced images"):
        for name in ("pixels.npy", PROGRESS):
            (folder / name).touch()
        with (folder / "pixels.npy").open("r+b") as file, (folder / PROGRESS).open("r+b") as log:
            found = Growing(folder, file, log, count)
            yield found
            found.finish()
