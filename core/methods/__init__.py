"""Training methods: what a training step computes, for training that needs more than a loss function."""

from core.methods.auxiliary import Auxiliary
from core.methods.base import Compiled, Forward, LossFunction, Method, Output, Supervised, as_it_is
from core.methods.consistency import Consistency
from core.methods.distill import Distill
from core.methods.simclr import SimCLR
from core.methods.weight_penalty import WeightPenalty

__all__ = [
    "Auxiliary",
    "Compiled",
    "Consistency",
    "Distill",
    "Forward",
    "LossFunction",
    "Method",
    "Output",
    "SimCLR",
    "Supervised",
    "WeightPenalty",
    "as_it_is",
]
