"""A part of each image, of random size and shape, resized to the size that all have."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from core import keys as K
from core.augment.base import Crop
from core.images import Box

_TRIES = 10  # as many as the paper's successors make before they take the middle


class RandomResizedCrop(Crop):
    """A box of random area and aspect, resized to the whole (Szegedy et al. 2015, section 6).

    Must come first. Of files that are decoded as they come (ImageFolder with cached false), it is cut from the file
    itself; of decoded images, from those.
    """

    smallest: float = Field(0.08, gt=0, le=1, description="smallest area, as a share of the image's")
    largest: float = Field(1.0, gt=0, le=1, description="largest area, as a share of the image's")
    aspect: float = Field(0.75, gt=0, le=1, description="smallest width over height; the largest is 1 / aspect")

    def check(self) -> None:
        if self.smallest > self.largest:
            raise ValueError(f"smallest {self.smallest} must not be above largest {self.largest}")

    def box(self, key: int, height: int, width: int) -> Box:
        tries = K.fold(np.array([key], dtype=np.int64), np.arange(_TRIES, dtype=np.int64))
        area = self.smallest + (self.largest - self.smallest) * K.uniform(tries, "crop area")
        aspect = self.aspect ** (1 - 2 * K.uniform(tries, "crop aspect"))
        wide = np.rint(np.sqrt(height * width * area * aspect)).astype(int).clip(1)
        tall = np.rint(np.sqrt(height * width * area / aspect)).astype(int).clip(1)
        fitting = np.flatnonzero((wide <= width) & (tall <= height))
        if not len(fitting):
            return self._middle(height, width)
        at = fitting[0]
        top = int(K.uniform(tries, "crop down")[at] * (height - tall[at] + 1))
        left = int(K.uniform(tries, "crop right")[at] * (width - wide[at] + 1))
        return top, left, int(tall[at]), int(wide[at])

    def _middle(self, height: int, width: int) -> Box:
        """The largest box of an allowed aspect, in the middle."""
        wide = min(width, math.floor(height / self.aspect))
        tall = min(height, math.floor(width / self.aspect))
        return (height - tall) // 2, (width - wide) // 2, max(1, tall), max(1, wide)
