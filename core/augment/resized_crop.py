"""A part of each image, of random size and shape, resized to the size that all have."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from core import keys as K
from core.augment.base import Crop, Range, Shares
from core.loading.images import Box

_TRIES = 10  # as many as the paper's successors make before they take the middle


class RandomResizedCrop(Crop):
    """A box of random area and aspect, resized to the whole (Szegedy et al. 2015, section 6).

    Must come first. Of files that are decoded as they come (ImageFolder with cached false), it is cut from the file
    itself; of decoded images, from those.
    """

    scale: Shares = Field((0.08, 1.0), description="smallest and largest area, as shares of the image's")
    ratio: Range = Field((3 / 4, 4 / 3), description="smallest and largest width over height")

    def box(self, key: int, height: int, width: int) -> Box:
        tries = K.fold(np.array([key], dtype=np.int64), np.arange(_TRIES, dtype=np.int64))
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * K.uniform(tries, "crop area")
        aspect = self.ratio[0] * (self.ratio[1] / self.ratio[0]) ** K.uniform(tries, "crop aspect")
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
        """The largest box of an allowed ratio, in the middle."""
        wide = min(width, math.floor(height * self.ratio[1]))
        tall = min(height, math.floor(width / self.ratio[0]))
        return (height - tall) // 2, (width - wide) // 2, max(1, tall), max(1, wide)
