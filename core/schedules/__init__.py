"""Learning rate schedules: pure functions (clock, history) -> multiplier of the learning rates."""

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
