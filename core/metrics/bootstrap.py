"""Bootstrap over images: the same resamples everywhere, as functions of their number."""

from __future__ import annotations

import numpy as np

from core import randomness

RESAMPLES = 500


def resample(n: int, number: int) -> np.ndarray:
    """The positions of the images in a resample with replacement, int64 [n]. number: from 0 to RESAMPLES - 1."""
    draw = randomness.uniform(randomness.sample_keys(0, number, np.arange(n)), "bootstrap")
    return (draw * n).astype(np.int64)
