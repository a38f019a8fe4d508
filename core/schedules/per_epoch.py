"""Schedules that change the learning rate at the end of an epoch, counted from the end of the warmup."""

from __future__ import annotations

import itertools
from bisect import bisect_right

from pydantic import Field

from core.context import Clock
from core.metrics.names import History, Metric, scores
from core.schedules.base import Schedule


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


class Plateau(Schedule):
    """Multiply the learning rate by `factor` when the metric `monitor` has stopped improving.

    Equivalent to torch's ReduceLROnPlateau with threshold_mode "rel". It is a pure function of the validation history,
    including the epochs of the warmup: the rule is evaluated from the first epoch each time, so there is no state to
    save. Whether the metric is maximized or minimized follows from its name.
    """

    factor: float = Field(0.1, gt=0, lt=1, description="factor by which the learning rate is reduced")
    patience: int = Field(
        10, ge=0, description="epochs without improvement to tolerate; after one more, the learning rate is reduced"
    )
    monitor: Metric = Field("val/loss", description="validation metric to monitor")
    threshold: float = Field(
        1e-4, ge=0, lt=1, description="minimum relative change of the metric that counts as an improvement"
    )
    cooldown: int = Field(0, ge=0, description="epochs to wait after a reduction before counting epochs again")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="minimum learning rate as a fraction of lr")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        multiplier, best, bad, cooling = 1.0, -float("inf"), 0, 0
        for score in scores(history, self.monitor):
            bar = best + self.threshold * abs(best) if best > -float("inf") else best
            best, bad = (score, 0) if score > bar else (best, bad + 1)
            if cooling:
                cooling, bad = cooling - 1, 0
            if bad > self.patience:
                multiplier, cooling, bad = max(multiplier * self.factor, self.min_lr_ratio), self.cooldown, 0
        return multiplier
