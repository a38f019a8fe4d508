"""Learning-rate range test as pure functions: learning rates, stopping rule and suggestion.

Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from core.declare.part import Part

FEWEST = 5  # minimum number of points for a suggestion
# relative to the initial loss: a smaller decrease, or a smaller increase afterwards, is noise
REAL_FALL, REAL_RISE = 0.02, 0.25


class RangeTest(Part):
    """Learning-rate range test (Smith 2017, section 3.3)."""

    min_lr: float = Field(1e-6, gt=0, description="learning rate of the first step")
    max_lr: float = Field(10.0, gt=0, validate_default=True, description="learning rate of the last step")
    steps: int = Field(
        100,
        ge=10,
        description="maximum number of optimizer steps; the learning rate grows by a constant factor per step",
    )
    smoothing: float = Field(
        0.8, ge=0, lt=1, description="smoothing of the loss: weight of the previous running mean at each step"
    )

    @field_validator("max_lr")
    @classmethod
    def _the_range_goes_up(cls, highest: float, info: ValidationInfo) -> float:
        lowest = info.data.get("min_lr")
        if lowest is not None and highest <= lowest:
            raise ValueError(f"should be above min_lr, {lowest:g}")
        return highest

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0: grows from min_lr to max_lr by a constant factor."""
        return self.min_lr * math.pow(self.max_lr / self.min_lr, step / (self.steps - 1))


@dataclass(frozen=True)
class Curve:
    """Result of a range test, one entry per step.

    losses: of the batch.  smoothed: losses smoothed without lag.  refused: learning rate at which the loss or gradient
    was not finite.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    refused: float | None = None

    @property
    def steepest(self) -> float | None:
        """Learning rate of the steepest decrease of the smoothed loss over log(rate), before its minimum; None if the
        loss does not decrease."""
        if len(self.rates) < FEWEST:
            return None
        low = int(np.argmin(self.smoothed))
        start = self.smoothed[0]
        if start - self.smoothed[low] <= REAL_FALL * abs(start):
            return None
        slopes = np.gradient(self.smoothed, np.log(self.rates))
        return self.rates[int(np.argmin(slopes[: low + 1]))]

    @property
    def diverging(self) -> float | None:
        """First learning rate after the minimum at which the loss has regained half of its decrease, or at which it was
        not finite; None if neither happened."""
        if self.rates:
            low = int(np.argmin(self.smoothed))
            start, least = abs(self.smoothed[0]), self.smoothed[low]
            lost = least + max((self.smoothed[0] - least) / 2, REAL_RISE * start)
            for rate, loss in zip(self.rates[low:], self.smoothed[low:], strict=True):
                if loss > lost:
                    return rate
        return self.refused


def has_diverged(losses: list[float], smoothing: float) -> bool:
    """Whether the running mean of the losses exceeds its minimum by more than its first value. Neither noise at the
    start nor a loss near zero ends the test."""
    means = running_mean(losses, smoothing)
    return means[-1] > min(means) + abs(means[0])


def running_mean(values: list[float], smoothing: float) -> list[float]:
    """Exponential moving average with bias correction, as Adam's first moment."""
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total = smoothing * total + (1 - smoothing) * value
        weight = smoothing * weight + (1 - smoothing)
        means.append(total / weight)
    return means


def smooth(values: list[float], smoothing: float) -> list[float]:
    """Average of the forward and backward running means; one alone lags, and would suggest too large a learning
    rate."""
    forth, back = running_mean(values, smoothing), running_mean(values[::-1], smoothing)[::-1]
    return [(a + b) / 2 for a, b in zip(forth, back, strict=True)]


def curve(rates: list[float], losses: list[float], smoothing: float, refused: float | None = None) -> Curve:
    """Build the curve of a range test. Losses are clipped before smoothing, so that an outlier does not affect its
    neighbors."""
    ceiling = 2 * max(losses[: max(1, len(losses) // 2)], default=math.inf)
    return Curve(rates, losses, smooth([min(loss, ceiling) for loss in losses], smoothing), refused)
