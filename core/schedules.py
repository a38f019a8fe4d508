"""Schedules: (clock, history) -> multiplier of every learning rate. A function of the step, testable on its own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import Field

from core.part import Part

History = Sequence[Mapping[str, float]]  # one entry of metrics for each finished epoch


class Clock(NamedTuple):
    """Where training stands. step counts optimizer steps from 0."""

    step: int
    steps_per_epoch: int
    epochs: int

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    @property
    def total(self) -> int:
        return self.steps_per_epoch * self.epochs


class Schedule(Part, ABC):
    """Base of schedules. Warmup stands in front of any: linear from 1/n to 1 over its first n steps."""

    warmup_epochs: float = Field(0.0, ge=0, description="epochs of linear warmup before the schedule proper")

    def __call__(self, clock: Clock, history: History = ()) -> float:
        """The multiplier for step `clock.step`."""
        warmup = min(round(self.warmup_epochs * clock.steps_per_epoch), clock.total)
        if clock.step < warmup:
            return (clock.step + 1) / warmup
        return self.after_warmup(clock.step - warmup, clock.total - warmup, clock, history)

    @abstractmethod
    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        """The multiplier at `step` of `total`, both counted from the end of warmup."""


class Constant(Schedule):
    """1 throughout."""

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return 1.0


class Cosine(Schedule):
    """Half a cosine from 1 to `final` (Loshchilov and Hutter 2017, equation 5, without restarts)."""

    final: float = Field(0.0, ge=0, le=1, description="multiplier reached at the end")

    def after_warmup(self, step: int, total: int, clock: Clock, history: History) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * step / total)) / 2
