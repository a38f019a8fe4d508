"""Learning-rate schedules. Those that change per epoch count epochs from the end of the warmup."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from typing import Literal

from pydantic import Field

from core.context import Clock
from core.metrics.names import MONITORED, History, Monitor
from core.schedules.base import Schedule
from core.schedules.monitoring import Monitoring


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
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * math.pow(1 - step / total, self.power)


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
            # the maximum may lie between two steps, or before the first one if the increase is shorter than a step
            start, end = 1.0, 1 / (self.div_factor * self.final_div_factor)
            share = (step - top) / (last - top) if last > top else 1.0
        return _half_cosine(start, end, share) if self.anneal == "cos" else start + (end - start) * share


def _half_cosine(start: float, end: float, share: float) -> float:
    """Cosine interpolation from start to end as share goes from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


class Step(Schedule):
    """Multiply the learning rate by `gamma` every `step_size` epochs, as torch's StepLR."""

    step_size: int = Field(30, ge=1, description="period of learning rate decay, in epochs")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of learning rate decay")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return self.gamma ** (step // clock.steps_per_epoch // self.step_size)


class MultiStep(Schedule):
    """Multiply the learning rate by `gamma` at each milestone, as torch's MultiStepLR (He et al. 2016, section 3.4)."""

    milestones: tuple[int, ...] = Field(
        (30, 60, 80), description="numbers of epochs after which the learning rate decays, increasing"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor of learning rate decay")

    def check(self) -> None:
        rising = all(before < after for before, after in itertools.pairwise((0, *self.milestones)))
        if not self.milestones or not rising:
            raise ValueError(f"milestones must be an increasing list of positive integers, not {self.milestones}")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return self.gamma ** bisect_right(self.milestones, step // clock.steps_per_epoch)


class Exponential(Schedule):
    """Multiply the learning rate by `gamma` after each epoch, as torch's ExponentialLR."""

    gamma: float = Field(0.95, gt=0, le=1, description="factor of learning rate decay per epoch")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return self.gamma ** (step // clock.steps_per_epoch)


class Plateau(Schedule, Monitoring):
    """Multiply the learning rate by `factor` when the metric `monitor` has stopped improving.

    Equivalent to torch's ReduceLROnPlateau with threshold_mode "rel". It is a pure function of the validation history:
    the rule is evaluated from the first epoch each time, so there is no state to save. Epochs of the warmup set the
    best value but do not count as epochs without improvement.
    """

    factor: float = Field(0.1, gt=0, lt=1, description="factor by which the learning rate is reduced")
    patience: int = Field(
        10, ge=0, description="epochs without improvement to tolerate; after one more, the learning rate is reduced"
    )
    monitor: Monitor = Field("val/loss", description=f"validation metric to monitor: {MONITORED}")
    threshold: float = Field(
        1e-4, ge=0, lt=1, description="minimum relative change of the metric that counts as an improvement"
    )
    cooldown: int = Field(0, ge=0, description="epochs to wait after a reduction before counting epochs again")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="minimum learning rate as a fraction of lr")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        multiplier, best, bad, cooling = 1.0, -float("inf"), 0, 0
        for epoch, score in enumerate(self.scores(history)):
            bar = best + self.threshold * abs(best) if best > -float("inf") else best
            best, bad = (score, 0) if score > bar else (best, bad + 1)
            if epoch < self.warmup_epochs:
                bad = 0
            if cooling:
                cooling, bad = cooling - 1, 0
            if bad > self.patience:
                multiplier, cooling, bad = max(multiplier * self.factor, self.min_lr_ratio), self.cooldown, 0
        return multiplier
