"""Bootstrap over images: the same resamples everywhere, as functions of their number."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from core import randomness
from core.common.errors import UserError

RESAMPLES = 500


def resample(n: int, number: int) -> np.ndarray:
    """The positions of the images in a resample with replacement, int64 [n]. number: from 0 to RESAMPLES - 1."""
    draw = randomness.uniform(randomness.sample_keys(0, number, np.arange(n)), "bootstrap")
    return (draw * n).astype(np.int64)


def interval(value: Callable[[np.ndarray], float], n: int) -> tuple[float, float]:
    """The 95 % interval of a value over images, percentiles of a bootstrap (Efron and Tibshirani 1993, chapter 13); NaN
    if no resample has the value.

    value: of the images at these positions, int64 [n]. A resample for which it raises UserError is left out: one
    without a class, of a metric that needs all.
    """
    values = []
    for number in range(RESAMPLES):
        with suppress(UserError):
            values.append(value(resample(n, number)))
    low, high = np.percentile(values, (2.5, 97.5)).tolist() if values else (np.nan, np.nan)
    return low, high
