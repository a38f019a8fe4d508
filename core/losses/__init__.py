"""Losses: (logits [N, C], targets) -> [N], one value for each example. Their mean is what is minimized.

targets: int64 [N], or float [N, C] probabilities once images are mixed.
"""

from core.common.tensors import full
from core.losses.base import BuiltLoss, Loss
from core.losses.binary import BinaryCrossEntropy, MeanSquaredError
from core.losses.cross_entropy import CrossEntropy, FocalLoss, NegativeLogLikelihood, PolyLoss
from core.losses.imbalance import ClassBalanced, LogitAdjusted
from core.losses.margin import ArcFace
from core.losses.robust import GeneralizedCrossEntropy, SymmetricCrossEntropy

__all__ = [
    "ArcFace",
    "BinaryCrossEntropy",
    "BuiltLoss",
    "ClassBalanced",
    "CrossEntropy",
    "FocalLoss",
    "GeneralizedCrossEntropy",
    "LogitAdjusted",
    "Loss",
    "MeanSquaredError",
    "NegativeLogLikelihood",
    "PolyLoss",
    "SymmetricCrossEntropy",
    "full",
]
