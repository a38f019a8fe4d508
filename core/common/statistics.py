"""Confidence intervals of a mean over seeds or folds, of a proportion of images, and of the difference of two paired
ones."""

from __future__ import annotations

import math

import numpy as np


def mean_and_interval(values: list[float], overlap: float = 0.0) -> tuple[float, float, float]:
    """Returns (mean, standard deviation, half width of the 95 % interval by Student's t).

    overlap: of runs whose training sets overlap, such as those of folds, the number of test images divided by that of
    training images, by which the variance of the mean is corrected: that of the values times 1 / n + overlap (Nadeau
    and Bengio, Inference for the generalization error, 2003: the corrected resampled t-test). The last two are NaN for
    a single value, or if a value is not finite.
    """
    n = len(values)
    if not all(map(math.isfinite, values)):
        return sum(values) / n, math.nan, math.nan
    if n < 2:
        return values[0], math.nan, math.nan
    from scipy.stats import t

    std = float(np.std(values, ddof=1))
    return float(np.mean(values)), std, float(t.ppf(0.975, n - 1) * std * math.sqrt(1 / n + overlap))


# Equal to scipy.stats.binomtest(...).proportion_ci("wilson"), which takes 0.14 ms for each proportion, and whose import
# takes a second that training does not need otherwise.
Z = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


def wilson(right: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (low, high), the 95 % score interval of the proportion right / count; (0, 1) for a count of 0 (Wilson
    1927; Brown et al. 2001, equation 4)."""
    n = np.maximum(count, 1)
    share = right / n
    center = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    none = np.asarray(count) == 0
    return np.where(none, 0.0, np.maximum(center - half, 0.0)), np.where(none, 1.0, np.minimum(center + half, 1.0))


def paired_difference(lost: int, gained: int, n: int, z: float = Z) -> tuple[float, float]:
    """Returns (low, high), the score interval of a difference of proportions over the same n images (Tango 1998).

    lost: images that only the first one gets right.  gained: those that only the second one does. The difference is
    (lost - gained) / n, what the second one loses. Without any such image, the interval is not empty: its ends are
    z^2 / (n + z^2) from 0.  z: quantile of the standard normal distribution; unless given, that of a 95 % interval.
    """
    from scipy.optimize import brentq

    def score(difference: float) -> float:
        # the nuisance parameter, the share of gained images, is estimated under this difference
        b = -lost - gained + (2 * n - lost + gained) * difference
        c = -gained * difference * (1 - difference)
        share = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        return (lost - gained - n * difference) / math.sqrt(max(variance, 1e-12))

    value, edge = (lost - gained) / n, 1 - 1e-9
    low = brentq(lambda at: score(at) - z, -edge, value) if score(-edge) > z else -1.0
    high = brentq(lambda at: score(at) + z, value, edge) if score(edge) < -z else 1.0
    return float(low), float(high)
