"""Intervals: of a mean over seeds, and of a share of images."""

from __future__ import annotations

import math

import numpy as np


def mean_and_interval(values: list[float]) -> tuple[float, float, float]:
    """(mean, standard deviation, half width of the 95 % interval by Student's t); the last two NaN for one value."""
    n = len(values)
    if n < 2:
        return values[0], math.nan, math.nan
    from scipy.stats import t

    std = float(np.std(values, ddof=1))
    return float(np.mean(values)), std, float(t.ppf(0.975, n - 1) * std / math.sqrt(n))


# The formula stands here, although scipy.stats.binomtest(...).proportion_ci("wilson") is the same: that takes one share
# at a time, 0.14 ms each, and a training that has no use for scipy would wait a second for its import.
Z = 1.959963984540054  # of a standard normal, 2.5 % lie above it


def wilson(right: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), the 95 % score interval of the share right / count; 0 and 1 where nothing was counted (Wilson 1927;
    Brown et al. 2001, equation 4)."""
    n = np.maximum(count, 1)
    share = right / n
    center = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    none = np.asarray(count) == 0
    return np.where(none, 0.0, np.maximum(center - half, 0.0)), np.where(none, 1.0, np.minimum(center + half, 1.0))
