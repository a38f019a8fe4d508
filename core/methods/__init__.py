"""Methods: what one training step computes. The seam for what needs more than a loss."""

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
