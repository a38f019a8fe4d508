"""Schedules that change the learning rate at every step, and Constant."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from core.context import Clock
from core.metrics.names import History
from core.schedules.base import Schedule


class Constant(Schedule):
    """Constant learning rate after the warmup, as torch's ConstantLR with factor 1."""

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return 1.0


class Cosine(Schedule):
    """Cosine annealing to `min_lr_ratio` at the end of training, without restarts (Loshchilov and Hutter 2017, equation
    5)."""

    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="final learning rate as a fraction of lr")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return _half_cosine(1.0, self.min_lr_ratio, step / total)


class CosineRestarts(Schedule):
    """Cosine annealing with warm restarts, SGDR (Loshchilov and Hutter 2017, equation 5).

    Training ends at the end of a cycle if the number of epochs after the warmup is t_0, t_0 * (1 + t_mult), ...
    """

    t_0: int = Field(10, ge=1, description="length of the first cycle, in epochs")
    t_mult: int = Field(1, ge=1, description="factor by which each cycle is longer than the previous one")
    min_lr_ratio: float = Field(
        0.0, ge=0, le=1, description="learning rate at the end of each cycle as a fraction of lr"
    )

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        cycle = self.t_0 * clock.steps_per_epoch
        while step >= cycle:
            if self.t_mult == 1:
                step %= cycle
            else:
                step, cycle = step - cycle, cycle * self.t_mult
        return _half_cosine(1.0, self.min_lr_ratio, step / cycle)


class Polynomial(Schedule):
    """Polynomial decay, (1 - t) ** power, to `min_lr_ratio` at the end of training ("poly", Chen et al. 2018, section
    4.1); t is the fraction of steps completed."""

    power: float = Field(
        1.0, gt=0, description="power of the polynomial; 1 is linear decay, larger values decay earlier"
    )
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="final learning rate as a fraction of lr")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * (1 - step / total) ** self.power


class OneCycle(Schedule):
    """The 1cycle policy (Smith and Topin 2018, section 3): the learning rate increases to lr, then decreases.

    As torch's OneCycleLR, with lr as its maximum, but momentum is not cycled. The policy includes a warmup, so
    warmup_epochs can be left at 0.
    """

    pct_start: float = Field(0.3, ge=0, lt=1, description="fraction of the steps spent increasing the learning rate")
    div_factor: float = Field(25.0, ge=1, description="determines the initial learning rate, lr / div_factor")
    final_div_factor: float = Field(
        1e4, ge=1, description="determines the final learning rate, lr / (div_factor * final_div_factor)"
    )
    anneal: Literal["cos", "linear"] = Field("cos", description="annealing strategy of both phases")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        top, last = self.pct_start * total - 1, total - 1
        if top > 0 and step <= top:
            start, end, share = 1 / self.div_factor, 1.0, step / top
        else:
            # the maximum is between two steps, or before the first step if the increase takes less than one step
            start, end = 1.0, 1 / (self.div_factor * self.final_div_factor)
            share = (step - top) / (last - top) if last > top else 1.0
        return _half_cosine(start, end, share) if self.anneal == "cos" else start + (end - start) * share


def _half_cosine(start: float, end: float, share: float) -> float:
    """Cosine interpolation from start to end as share goes from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
