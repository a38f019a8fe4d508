"""The learning-rate range test as pure functions: which rates are tried, when it stops, what the curve suggests.

Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from core.declare.part import Part

FEWEST = 5  # points below which a curve tells nothing
# shares of the loss at the start: less of a fall, or of a climb back, is noise
REAL_FALL, REAL_RISE = 0.02, 0.25


class RangeTest(Part):
    """What `lr_find` tries (Smith 2017, section 3.3)."""

    min_lr: float = Field(1e-6, gt=0, description="rate of the first step, in the place of optimizer.lr")
    max_lr: float = Field(10.0, gt=0, validate_default=True, description="rate of the last step")
    steps: int = Field(100, ge=10, description="optimizer steps at most, the rate growing by the same factor in each")
    smoothing: float = Field(0.8, ge=0, lt=1, description="of the loss: share of the running mean kept at each step")

    @field_validator("max_lr")
    @classmethod
    def _the_range_goes_up(cls, highest: float, info: ValidationInfo) -> float:
        lowest = info.data.get("min_lr")
        if lowest is not None and highest <= lowest:
            raise ValueError(f"should be above min_lr, {lowest:g}")
        return highest

    def rate(self, step: int) -> float:
        """Of the step with this number, from 0: min_lr to max_lr in equal factors."""
        return self.min_lr * math.pow(self.max_lr / self.min_lr, step / (self.steps - 1))


@dataclass(frozen=True)
class Curve:
    """What was seen, one entry a step.  losses: of the batch.  smoothed: without lag.
    refused: the rate at which a loss or gradient was not finite."""

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    refused: float | None = None

    @property
    def steepest(self) -> float | None:
        """The rate at which the smoothed loss falls fastest over log(rate), before its minimum; None where it
        never falls."""
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
        """The first rate after the minimum at which half of what the loss had lost is back, or one at which it was
        not finite; None where neither happened."""
        if self.rates:
            low = int(np.argmin(self.smoothed))
            start, least = abs(self.smoothed[0]), self.smoothed[low]
            lost = least + max((self.smoothed[0] - least) / 2, REAL_RISE * start)
            for rate, loss in zip(self.rates[low:], self.smoothed[low:], strict=True):
                if loss > lost:
                    return rate
        return self.refused


def has_diverged(losses: list[float], smoothing: float) -> bool:
    """Whether the running mean of the losses has climbed above its lowest by more than its first value: so neither
    the noise of a flat start ends the test nor that of a loss near zero."""
    means = running_mean(losses, smoothing)
    return means[-1] > min(means) + abs(means[0])


def running_mean(values: list[float], smoothing: float) -> list[float]:
    """Exponential, each weighed by the share that has come in so far (as Adam's first moment)."""
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total = smoothing * total + (1 - smoothing) * value
        weight = smoothing * weight + (1 - smoothing)
        means.append(total / weight)
    return means


def smooth(values: list[float], smoothing: float) -> list[float]:
    """The running mean from both ends, averaged: one alone lags, and so would point to too high a rate."""
    forth, back = running_mean(values, smoothing), running_mean(values[::-1], smoothing)[::-1]
    return [(a + b) / 2 for a, b in zip(forth, back, strict=True)]


def curve(rates: list[float], losses: list[float], smoothing: float, refused: float | None = None) -> Curve:
    """The curve of these steps. A loss that shot up is bounded first, or it would drag its neighbors along."""
    ceiling = 2 * max(losses[: max(1, len(losses) // 2)], default=math.inf)
    return Curve(rates, losses, smooth([min(loss, ceiling) for loss in losses], smoothing), refused)
