"""Photographs that were reduced once, decoded on access from one memory-mapped file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.common.errors import DataError, ImageLost
from core.loading.images import Box, Order
from data.reading import cache
from data.reading.decode import decode, decode_crop, resized_part, whole_jpeg
from data.reading.frame import Frame
from data.reading.progress import printable


@dataclass(frozen=True)
class ReducedImages:
    """Images of a cache as uint8 [M, H, W, 3], decoded on each access.

    stored: contents of all files, uint8 [bytes].  places: offset and size of each row in it, int64 [M, 2].  frame: what
    is cut from them.
    """

    stored: np.ndarray
    places: np.ndarray
    frame: Frame

    @classmethod
    def of(cls, cached: cache.Cached, frame: Frame) -> ReducedImages:
        assert cached.pixels is not None
        places = np.zeros((max(cached.index.rows) + 1, 2), dtype=np.int64)
        places[cached.index.rows] = cached.index.places
        return cls(cached.pixels, places, frame)

    def __reduce__(self) -> tuple[Any, ...]:
        # a spawned loader worker opens the memory map again; pickling would copy all of it
        return _reopened, (getattr(self.stored, "filename", None), self.places, self.frame)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.places), self.frame.height, self.frame.width, 3

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The images of these rows (an int, a slice, int64 [n]), each cut to the frame. Raises ImageLost."""
        if isinstance(rows, int | np.integer):
            return self._read(int(rows), None)
        chosen = np.arange(len(self))[rows]
        pixels = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for place, row in enumerate(chosen.tolist()):
            pixels[place] = self._read(row, None)
        return pixels

    def crop(self, row: int, choose: Callable[[int, int], Box]) -> np.ndarray:
        """The box returned by `choose(height, width)` of the reduced image, resized to uint8 [H, W, 3]. Raises
        ImageLost."""
        return self._read(row, choose)

    def order(self, rows: np.ndarray, size: int, ranks: int) -> Order | None:
        """None, because any order is efficient."""
        return None

    def content(self, row: int) -> bytes:
        """The content of a file."""
        offset, size = self.places[row].tolist()
        return self.stored[offset : offset + size].tobytes()

    def _read(self, row: int, choose: Callable[[int, int], Box] | None) -> np.ndarray:
        try:
            return read_reduced(self.content(row), self.frame, choose)
        except (OSError, RuntimeError, DataError) as error:
            folder = Path(getattr(self.stored, "filename", "")).parent
            reason = printable(str(error).partition("\n")[0] or type(error).__name__)
            raise ImageLost(f"image {row} of the cache is damaged ({reason}); delete the folder {folder}") from None


def read_reduced(content: bytes, frame: Frame, choose: Callable[[int, int], Box] | None = None) -> np.ndarray:
    """The frame of a file that `encoded` has made; or the box `choose(height, width)` of it, resized to the same size.
    Raises RuntimeError and Unreadable for damaged ones."""
    if content[:2] != b"\xff\xd8":
        return decode_crop(content, "", frame, choose) if choose else np.array(decode(content, "", frame))
    if choose is None and frame.resize_size:
        return np.array(decode(content, "", frame))
    whole = whole_jpeg(content)
    top, left, tall, wide = (choose or frame.centered)(*whole.shape[1:])
    return resized_part(whole[:, top : top + tall, left : left + wide], frame)


def _reopened(file: str, *others: Any) -> ReducedImages:
    return ReducedImages(np.load(file, mmap_mode="r"), *others)
