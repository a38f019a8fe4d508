"""Training methods: what a training step computes, for training that needs more than a loss function."""

from core.methods.auxiliary import Auxiliary
from core.methods.base import Forward, LossFunction, Method, Output, Supervised
from core.methods.consistency import Consistency
from core.methods.distill import Distill
from core.methods.weight_penalty import WeightPenalty

__all__ = [
    "Auxiliary",
    "Consistency",
    "Distill",
    "Forward",
    "LossFunction",
    "Method",
    "Output",
    "Supervised",
    "WeightPenalty",
]
