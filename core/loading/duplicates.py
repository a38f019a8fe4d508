"""Near-duplicates of test images in the training split, found by perceptual hash and confirmed by correlation.

pHash (Zauner 2010, section 3.2.1): the signs of the low frequencies of a small grayscale copy. Pairs with similar
hashes are compared by pixels, because images of one kind (digits, faces) have similar hashes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from core.loading.images import Images

SIDE, LOW = 32, 8  # size of the grayscale copy, and number of low frequencies, per dimension
NEAR = 14  # maximum number of differing bits, of 64, between hashes of near-duplicates
ALIKE, SAME = 0.9, 0.995  # minimum correlation of the grayscale copies of near-duplicates, and of identical images
SMALL = 28  # pixels per side: different images of this size can be highly correlated, so only identical ones count
_PAIRS = 1 << 24  # pairs compared at a time, to limit memory
_NUMBERS = 1 << 23  # pixel values converted at a time, to limit memory


@dataclass(frozen=True)
class Duplicates:
    """Near-duplicates between test and train.

    pairs: int64 [n, 2], positions in test and in train, highest correlation first.  alike: float [n], correlation of
    the grayscale copies.  looked: number of test images searched, of `total`.
    """

    pairs: np.ndarray
    alike: np.ndarray
    looked: int
    total: int

    @property
    def share(self) -> float:
        """Fraction of the searched test images that have a near-duplicate."""
        return len(self.pairs) / max(1, self.looked)


def near_duplicates(test: Images, train: Images, until: float = math.inf) -> Duplicates:
    """Find test images with a near-duplicate in train, which is the training image with the nearest hash. until: time
    limit (time.monotonic); the remaining images are not searched."""
    train_hashes = hashes(train, until)
    test_hashes = hashes(test, until) if len(train_hashes) == len(train) else np.empty(0, np.uint64)
    least = SAME if max(test.shape[:2]) <= SMALL else ALIKE
    nearest, step = [np.empty((0, 2), np.int64)], max(1, _PAIRS // max(1, len(train_hashes)))
    looked = 0
    for start in range(0, len(test_hashes), step):
        if time.monotonic() > until:
            break
        apart = np.bitwise_count(test_hashes[start : start + step, None] ^ train_hashes)
        column = apart.argmin(axis=1)
        row = np.flatnonzero(apart.min(axis=1) <= NEAR)
        nearest.append(np.stack([row + start, column[row]], axis=1))
        looked += len(apart)
    pairs = np.concatenate(nearest)
    alike = correlation(test, train, pairs)
    best = np.flatnonzero(alike >= least)
    best = best[np.argsort(-alike[best], kind="stable")]
    return Duplicates(pairs[best], alike[best], looked, len(test))


def hashes(images: Images, until: float = math.inf) -> np.ndarray:
    """Perceptual hashes of images, uint64 [n], in their order; fewer if the time limit is reached."""
    frequencies = torch.arange(LOW)[:, None] * (torch.arange(SIDE) + 0.5) * (math.pi / SIDE)
    cosines = frequencies.cos()  # DCT-II, unscaled: only signs are used
    weights = np.uint64(1) << np.arange(LOW * LOW, dtype=np.uint64)
    found = [np.empty(0, np.uint64)]
    for gray in _grays(images, np.arange(len(images))):
        if time.monotonic() > until:
            break
        low = (cosines @ gray @ cosines.T).flatten(1)
        low[:, 0] = 0  # the mean: brightness is ignored
        bits = low > low[:, 1:].median(dim=1, keepdim=True).values
        found.append(np.bitwise_or.reduce(np.where(bits.numpy(), weights, np.uint64(0)), axis=1))
    return np.concatenate(found)


def correlation(test: Images, train: Images, pairs: np.ndarray) -> np.ndarray:
    """Correlation of the grayscale copies of each pair, float [n]; 0 if one of them is constant. pairs: int64 [n, 2],
    positions."""
    found = [np.empty(0)]
    for a, b in zip(_grays(test, pairs[:, 0]), _grays(train, pairs[:, 1]), strict=True):
        a, b = (F.normalize(gray.flatten(1) - gray.mean(dim=(1, 2))[:, None], dim=1) for gray in (a, b))
        found.append((a * b).sum(dim=1).double().numpy())
    return np.concatenate(found)


def _grays(images: Images, places: np.ndarray) -> Iterator[torch.Tensor]:
    """Yield grayscale copies float32 [n, SIDE, SIDE] of the images at these positions, in chunks."""
    chunk = min(1024, max(1, _NUMBERS // math.prod(images.shape)))
    for start in range(0, len(places), chunk):
        pixels = torch.from_numpy(np.ascontiguousarray(images.pixels[images.rows[places[start : start + chunk]]]))
        gray = pixels.float().mean(dim=3)[:, None]
        yield F.interpolate(gray, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)[:, 0]
