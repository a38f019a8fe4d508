"""Schedules that change at the end of an epoch, counted from the end of warmup."""

from __future__ import annotations

import itertools
from bisect import bisect_right

from pydantic import Field

from core.context import Clock
from core.metrics.names import History, Metric, scores
from core.schedules.base import Schedule


class Step(Schedule):
    """`gamma` times as much after each `every` epochs; as torch's StepLR."""

    step_size: int = Field(30, ge=1, description="epochs between falls")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each fall")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return self.gamma ** (step // clock.steps_per_epoch // self.step_size)


class MultiStep(Schedule):
    """`gamma` times as much after each of these epochs (He et al. 2016, section 3.4)."""

    milestones: tuple[int, ...] = Field((30, 60, 80), description="epochs done when it falls, rising")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each fall")

    def check(self) -> None:
        rising = all(before < after for before, after in itertools.pairwise((0, *self.milestones)))
        if not self.milestones or not rising:
            raise ValueError(f"milestones must be rising numbers of epochs from 1 on, not {self.milestones}")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return self.gamma ** bisect_right(self.milestones, step // clock.steps_per_epoch)


class Exponential(Schedule):
    """`gamma` times as much after each epoch; as torch's ExponentialLR."""

    gamma: float = Field(0.95, gt=0, le=1, description="factor of each epoch")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return self.gamma ** (step // clock.steps_per_epoch)


class Plateau(Schedule):
    """`factor` times as much when `metric` has not improved for more than `patience` epochs.

    A function of the validation history, warmup's epochs included: the rule is gone through from the first epoch each
    time, so that nothing is kept. As torch's ReduceLROnPlateau with threshold_mode "rel". Whether larger or smaller is
    better follows from the metric's name.
    """

    factor: float = Field(0.1, gt=0, lt=1, description="factor of each fall")
    patience: int = Field(10, ge=0, description="epochs without improvement that are borne")
    monitor: Metric = Field("val/loss", description="what is watched")
    threshold: float = Field(1e-4, ge=0, lt=1, description="an improvement must exceed this share of the best so far")
    cooldown: int = Field(0, ge=0, description="epochs after a fall in which none is counted")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="smallest multiplier")

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
