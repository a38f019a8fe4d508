"""Schedules: (clock, history) -> multiplier of every learning rate. A function of the step, testable on its own."""

from core.context import Clock
from core.schedules.base import Schedule
from core.schedules.per_epoch import Exponential, MultiStep, Plateau, Step
from core.schedules.per_step import Constant, Cosine, CosineRestarts, OneCycle, Polynomial

__all__ = [
    "Clock",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Exponential",
    "MultiStep",
    "OneCycle",
    "Plateau",
    "Polynomial",
    "Schedule",
    "Step",
]
