"""Schedule, the base class of learning rate schedules, with linear warmup."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pydantic import Field

from core.context import Clock
from core.declare.part import Part
from core.metrics.names import History


class Schedule(Part, ABC):
    """Base class of learning rate schedules.

    Every schedule can start with a linear warmup, from 1/n to 1 over n steps (Goyal et al. 2017, section 2.2). Steps
    and epochs of the schedule itself are counted from the end of the warmup.
    """

    warmup_epochs: float = Field(0.0, ge=0, description="epochs of linear warmup before the schedule starts")

    def __call__(self, clock: Clock, history: History = ()) -> float:
        """Returns the multiplier of the learning rate at step `clock.step`.

        history: validation metrics of the past epochs.
        """
        warmup = min(round(self.warmup_epochs * clock.steps_per_epoch), clock.total)
        if clock.step < warmup:
            return (clock.step + 1) / warmup
        return self.after_warmup(clock.step - warmup, clock.total - warmup, clock, history)

    @abstractmethod
    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        """Returns the multiplier at `step` of `total` steps, both counted from the end of the warmup."""
