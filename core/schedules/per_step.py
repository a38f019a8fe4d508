"""Schedules that change at each step."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from core.context import Clock
from core.metrics.names import History
from core.schedules.base import Schedule


class Constant(Schedule):
    """1 throughout; as torch's ConstantLR of factor 1."""

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return 1.0


class Cosine(Schedule):
    """Half a cosine from 1 to `min_lr_ratio` (Loshchilov and Hutter 2017, equation 5, without restarts), per step."""

    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="multiplier reached at the end")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return _half_cosine(1.0, self.min_lr_ratio, step / total)


class CosineRestarts(Schedule):
    """Half a cosine from 1 to `min_lr_ratio`, again and again (Loshchilov and Hutter 2017, equation 5: SGDR), per step.

    A run ends at the bottom where its epochs after warmup are t_0, t_0 * (1 + t_mult), ...
    """

    t_0: int = Field(10, ge=1, description="epochs of the first cycle")
    t_mult: int = Field(1, ge=1, description="each cycle is so many times as long as the one before")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="multiplier reached at the end of each cycle")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        cycle = self.t_0 * clock.steps_per_epoch
        while step >= cycle:
            if self.t_mult == 1:
                step %= cycle
            else:
                step, cycle = step - cycle, cycle * self.t_mult
        return _half_cosine(1.0, self.min_lr_ratio, step / cycle)


class Polynomial(Schedule):
    """(1 - t) ** power from 1 to `min_lr_ratio`, per step; t is the share of steps done. Power 1 is a line.

    Source: Chen et al. 2018, section 4.1 ("poly").
    """

    power: float = Field(1.0, gt=0, description="1 is a line; above, the rate falls early")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="multiplier reached at the end")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * math.pow(1 - step / total, self.power)


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
