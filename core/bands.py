"""Numbers and curves over seeds: means with their intervals, and how they are drawn. matplotlib without pyplot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def mean_and_interval(values: list[float]) -> tuple[float, float, float]:
    """(mean, standard deviation, half width of the 95 % interval by Student's t); the last two NaN for one value."""
    n = len(values)
    if n < 2:
        return values[0], math.nan, math.nan
    from scipy.stats import t

    std = float(np.std(values, ddof=1))
    return float(np.mean(values)), std, float(t.ppf(0.975, n - 1) * std / math.sqrt(n))


def band(curves: Sequence[dict[int, float]]) -> tuple[list[int], np.ndarray]:
    """(epochs that any seed has reached, [3, epochs]: mean and both ends of its interval; NaN ends for one seed)."""
    epochs = sorted({epoch for curve in curves for epoch in curve})
    ends = []
    for epoch in epochs:
        mean, _, half = mean_and_interval([curve[epoch] for curve in curves if epoch in curve])
        ends.append((mean, mean - half, mean + half))
    return epochs, np.array(ends).T.reshape(3, len(epochs))


def draw(axes: Axes, label: str, curves: Sequence[dict[int, float]]) -> None:
    """The mean as a line, its interval as a band; nothing where there is no curve."""
    if not curves:
        return
    epochs, (mean, low, high) = band(curves)
    (line,) = axes.plot(epochs, mean, label=f"{label} (n = {len(curves)})", marker="o" if len(epochs) < 3 else "")
    axes.fill_between(epochs, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
