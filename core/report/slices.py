"""Slices of the test split with the lowest accuracy: each class by brightness, contrast and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.common.statistics import wilson
from core.loading.images import Images

FEWEST = 8  # images in a reported slice
THIRDS = {
    "brightness": ("dark", "of medium brightness", "bright"),
    "contrast": ("low in contrast", "of medium contrast", "high in contrast"),
    "size": ("small", "of medium size", "large"),
}


@dataclass(frozen=True)
class Slice:
    """Some images of one class. right: number of correct predictions.  low, high: 95 % interval of the accuracy
    (Wilson)."""

    name: str
    count: int
    right: int
    low: float
    high: float


def worst_slices(
    targets: np.ndarray, right: np.ndarray, traits: Mapping[str, np.ndarray], classes: Sequence[str], most: int = 10
) -> list[Slice]:
    """Returns the slices with a lower accuracy than all images, the worst first.

    They are sorted by the upper end of the interval, so that a slice of few images is not listed by chance. targets:
    int64 [n].  right: bool [n].  traits: float [n] for each name of THIRDS; the thirds are those of all images.
    """
    found = []
    enough = np.flatnonzero(np.bincount(targets, minlength=len(classes)) >= FEWEST).tolist()
    for trait, values in traits.items():
        third = np.searchsorted(np.quantile(values, (1 / 3, 2 / 3)), values, side="left")
        for label in enough:
            for place, called in enumerate(THIRDS[trait]):
                members = right[(targets == label) & (third == place)]
                if len(members) >= FEWEST and members.mean() < right.mean():
                    hits = int(members.sum())
                    low, high = wilson(np.array(hits), np.array(len(members)))
                    found.append(Slice(f"{classes[label]}, {called}", len(members), hits, float(low), float(high)))
    return sorted(found, key=lambda one: (one.high, one.right / one.count))[:most]


def light(pixels: np.ndarray) -> np.ndarray:
    """Returns brightness (mean of all values of an image) and contrast (their standard deviation), float64 [n, 2].
    pixels: uint8 [n, H, W, C]."""
    flat = pixels.reshape(len(pixels), -1)
    return np.stack([flat.mean(axis=1), flat.std(axis=1)], axis=1)


def traits(images: Images, places: np.ndarray, seen: np.ndarray) -> dict[str, np.ndarray]:
    """Returns name -> float64 [n] for the images at these positions. seen: their `light`.

    size is the number of pixels of the image's file. Traits with the same value for all images are left out.
    """
    found = {"brightness": seen[:, 0], "contrast": seen[:, 1]}
    if images.areas is not None:
        found["size"] = images.areas[images.rows[places]].astype(float)
    return {name: values for name, values in found.items() if len(values) and np.ptp(values) > 0}
