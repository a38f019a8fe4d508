"""RandomResizedCrop: a crop of random area and aspect ratio, resized to the size shared by all images."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from core import randomness as K
from core.augment.base import Crop, FractionRange, Range
from core.loading.images import Box

_TRIES = 10  # as in torchvision, which then falls back to a central crop
_DRAWN = ("crop area", "crop aspect", "crop down", "crop right")


class RandomResizedCrop(Crop):
    """Crop a random area of an image and resize it to the original size (Szegedy et al. 2015, section 6).

    It must be the first step. The crop is taken from the cached image; of an ImageFolder with cached=False, from the
    file at its original resolution, and with cached="resized", from the whole image as it is kept.
    """

    scale: FractionRange = Field(
        (0.08, 1.0), description="minimum and maximum area of the crop as a fraction of the image area"
    )
    ratio: Range = Field((3 / 4, 4 / 3), description="minimum and maximum aspect ratio (width / height) of the crop")

    def box(self, key: int, height: int, width: int) -> Box:
        tries = K.fold(np.array([key], dtype=np.int64), np.arange(_TRIES, dtype=np.int64))
        area, aspect, down, right = K.uniforms(tries, _DRAWN)
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * area
        aspect = self.ratio[0] * (self.ratio[1] / self.ratio[0]) ** aspect
        wide = np.maximum(np.rint(np.sqrt(height * width * area * aspect)), 1)
        tall = np.maximum(np.rint(np.sqrt(height * width * area / aspect)), 1)
        fitting = np.flatnonzero((wide <= width) & (tall <= height))
        if not len(fitting):
            return self._middle(height, width)
        at = fitting[0]
        top = int(float(down[at]) * (height - int(tall[at]) + 1))
        left = int(float(right[at]) * (width - int(wide[at]) + 1))
        return top, left, int(tall[at]), int(wide[at])

    def _middle(self, height: int, width: int) -> Box:
        """The largest central crop whose aspect ratio is in range."""
        wide = min(width, math.floor(height * self.ratio[1]))
        tall = min(height, math.floor(width / self.ratio[0]))
        return (height - tall) // 2, (width - wide) // 2, max(1, tall), max(1, wide)
