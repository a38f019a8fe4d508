"""Schedules that change at each step."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from core.history import History
from core.schedules.base import Clock, Schedule


class Constant(Schedule):
    """1 throughout; as torch's ConstantLR of factor 1."""

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return 1.0


class Cosine(Schedule):
    """Half a cosine from 1 to `final` (Loshchilov and Hutter 2017, equation 5, without restarts), per step."""

    final: float = Field(0.0, ge=0, le=1, description="multiplier reached at the end")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return _half_cosine(1.0, self.final, step / total)


class CosineRestarts(Schedule):
    """Half a cosine from 1 to `final`, again and again (Loshchilov and Hutter 2017, equation 5: SGDR), per step.

    A run ends at the bottom where its epochs after warmup are first, first * (1 + growth), ...
    """

    first: int = Field(10, ge=1, description="epochs of the first cycle")
    growth: int = Field(1, ge=1, description="each cycle is so many times as long as the one before")
    final: float = Field(0.0, ge=0, le=1, description="multiplier reached at the end of each cycle")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        cycle = self.first * clock.steps_per_epoch
        while step >= cycle:
            if self.growth == 1:
                step %= cycle
            else:
                step, cycle = step - cycle, cycle * self.growth
        return _half_cosine(1.0, self.final, step / cycle)


class Polynomial(Schedule):
    """(1 - t) ** power from 1 to `final`, t the share of steps done (Chen et al. 2018, section 4.1: "poly"), per step.

    Power 1 is a line.
    """

    power: float = Field(1.0, gt=0, description="1 is a line; above, the rate falls early")
    final: float = Field(0.0, ge=0, le=1, description="multiplier reached at the end")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return self.final + (1 - self.final) * (1 - step / total) ** self.power


class OneCycle(Schedule):
    """Up to 1 and down again over the whole run (Smith and Topin 2018, section 3), per step; the learning rate only,
    momentum stays. The declared learning rate is the largest. It warms up by itself: warmup_epochs may stay 0.
    """

    pct_start: float = Field(0.3, ge=0, lt=1, description="share of the steps in which it rises")
    div_factor: float = Field(25.0, ge=1, description="it begins at 1 / div_factor")
    final_div_factor: float = Field(1e4, ge=1, description="it ends at 1 / (div_factor * final_div_factor)")
    anneal: Literal["cos", "linear"] = Field("cos", description="form of rise and fall")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        top, last = self.pct_start * total - 1, total - 1
        if top > 0 and step <= top:
            start, end, share = 1 / self.div_factor, 1.0, step / top
        else:
            # the top lies between steps, or before the first, where the rise takes less than one
            start, end = 1.0, 1 / (self.div_factor * self.final_div_factor)
            share = (step - top) / (last - top) if last > top else 1.0
        return _half_cosine(start, end, share) if self.anneal == "cos" else start + (end - start) * share


def _half_cosine(start: float, end: float, share: float) -> float:
    """From start to end as share goes from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
