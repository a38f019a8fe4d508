"""Learning rate schedules: pure functions (clock, history) -> multiplier of the learning rates."""

from core.context import Clock
from core.schedules.base import Schedule
from core.schedules.learning_rate import (
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    MultiStep,
    OneCycle,
    Plateau,
    Polynomial,
    Step,
)

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
