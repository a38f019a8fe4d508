"""Image files that are decoded on access, for folders that are too large for a cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from core.common.errors import ImageLost
from core.loading.images import Box, Order
from data.reading.decode import Conversion, Unreadable, decode, decode_crop
from data.reading.frame import Frame
from data.reading.progress import printable


@dataclass(frozen=True)
class Files:
    """Images of a folder as uint8 [M, H, W, 3], decoded on each access.  names: file name of each row.  frame: what is
    cut from them.  conversion: of pixels that are not 8-bit RGB."""

    lost: ClassVar[str] = "it could be read when training started; restore the file"

    root: Path
    names: tuple[str, ...]
    frame: Frame
    conversion: Conversion

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.names), self.frame.height, self.frame.width, 3

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The images of these rows (an int, a slice, int64 [n]), each cut to the frame. Raises ImageLost."""
        if isinstance(rows, int | np.integer):
            return self._read(int(rows), decode, self.frame, self.conversion)
        chosen = np.arange(len(self))[rows]
        pixels = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for place, row in enumerate(chosen.tolist()):
            pixels[place] = self[row]
        return pixels

    def crop(self, row: int, choose: Callable[[int, int], Box]) -> np.ndarray:
        """The box returned by `choose(height, width)`, for the upright image, resized to uint8 [H, W, 3]. Raises
        ImageLost."""
        return self._read(row, decode_crop, self.frame, choose, self.conversion)

    def order(self, rows: np.ndarray, size: int, ranks: int) -> Order | None:
        """None, because separate files can be read in any order."""
        return None

    def content(self, row: int) -> bytes:
        """The content of an image file. Raises OSError."""
        with open(os.path.join(self.root, self.names[row]), "rb", buffering=0) as stream:
            return stream.readall()

    def _read(self, row: int, decoder: Callable[..., np.ndarray], *arguments: Any) -> np.ndarray:
        path = os.path.join(self.root, self.names[row])
        try:
            return decoder(self.content(row), path, *arguments)
        except (OSError, Unreadable) as error:
            reason = f"{printable(path)}: {error.strerror}" if isinstance(error, OSError) else error.lines[0]
            raise ImageLost(f"{reason} ({self.lost})") from None
