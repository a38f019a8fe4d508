"""Test images that stand in train as well, or nearly: by perceptual hash, then by the pixels themselves.

pHash (Zauner 2010, section 3.2.1): the signs of the low frequencies of a small gray copy. What shares nearly all of
them is looked at again, for images of one kind (digits, faces) have similar hashes.
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

SIDE, LOW = 32, 8  # of the gray copy, and of its low frequencies, in each direction
NEAR = 14  # bits of 64 in which the hashes of near-duplicates may differ
ALIKE, SAME = 0.9, 0.995  # correlation of the gray copies of near-duplicates, and of the same picture
SMALL = 28  # pixels a side: images so small look alike without being so, and the same pictures alone count
_PAIRS = 1 << 24  # compared at a time: bounds the memory
_NUMBERS = 1 << 23  # of images that are made gray at a time: the same


@dataclass(frozen=True)
class Duplicates:
    """pairs: int64 [n, 2], positions in test and in train, most alike first.  alike: float [n], correlation of their
    gray copies.  looked: how many test images were looked up, of total."""

    pairs: np.ndarray
    alike: np.ndarray
    looked: int
    total: int

    @property
    def share(self) -> float:
        """Of the test images that were looked up."""
        return len(self.pairs) / max(1, self.looked)


def near_duplicates(test: Images, train: Images, until: float = math.inf) -> Duplicates:
    """Test images that have a near-duplicate in train, the one whose hash is nearest; as many as can be looked up until
    then (time.monotonic)."""
    theirs = hashes(train, until)
    ours = hashes(test, until) if len(theirs) == len(train) else np.empty(0, np.uint64)
    least = SAME if max(test.shape[:2]) <= SMALL else ALIKE
    nearest, step = [np.empty((0, 2), np.int64)], max(1, _PAIRS // max(1, len(theirs)))
    looked = 0
    for start in range(0, len(ours), step):
        if time.monotonic() > until:
            break
        apart = np.bitwise_count(ours[start : start + step, None] ^ theirs)
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
    """uint64 [n] of the images in their order; fewer than all where time was up."""
    frequencies = torch.arange(LOW)[:, None] * (torch.arange(SIDE) + 0.5) * (math.pi / SIDE)
    cosines = frequencies.cos()  # DCT-II, unscaled: signs are all that counts
    weights = np.uint64(1) << np.arange(LOW * LOW, dtype=np.uint64)
    found = [np.empty(0, np.uint64)]
    for gray in _grays(images, np.arange(len(images))):
        if time.monotonic() > until:
            break
        low = (cosines @ gray @ cosines.T).flatten(1)
        low[:, 0] = 0  # the mean: brightness is no part of what is shown
        bits = low > low[:, 1:].median(dim=1, keepdim=True).values
        found.append(np.bitwise_or.reduce(np.where(bits.numpy(), weights, np.uint64(0)), axis=1))
    return np.concatenate(found)


def correlation(test: Images, train: Images, pairs: np.ndarray) -> np.ndarray:
    """float [n], of the gray copies of each pair int64 [n, 2] of positions; 0 where one of them is of one gray."""
    found = [np.empty(0)]
    for a, b in zip(_grays(test, pairs[:, 0]), _grays(train, pairs[:, 1]), strict=True):
        a, b = (F.normalize(gray.flatten(1) - gray.mean(dim=(1, 2))[:, None], dim=1) for gray in (a, b))
        found.append((a * b).sum(dim=1).double().numpy())
    return np.concatenate(found)


def _grays(images: Images, places: np.ndarray) -> Iterator[torch.Tensor]:
    """float32 [n, SIDE, SIDE] of the images at these positions, a chunk at a time."""
    chunk = min(1024, max(1, _NUMBERS // math.prod(images.shape)))
    for start in range(0, len(places), chunk):
        pixels = torch.from_numpy(np.ascontiguousarray(images.pixels[images.rows[places[start : start + chunk]]]))
        gray = pixels.float().mean(dim=3)[:, None]
        yield F.interpolate(gray, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)[:, 0]
