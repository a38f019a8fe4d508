"""Losses: (logits [N, C], targets) -> [N], one value for each example. Their mean is what is minimised.

targets: int64 [N], or float [N, C] probabilities once images are mixed.
"""

from core.losses.base import BuiltLoss, Loss, full
from core.losses.entropy import CrossEntropy, FocalLoss, NegativeLogLikelihood, PolyLoss
from core.losses.imbalance import ClassBalanced, LogitAdjusted
from core.losses.margin import ArcFace
from core.losses.robust import GeneralisedCrossEntropy, SymmetricCrossEntropy
from core.losses.separate import BinaryCrossEntropy, MeanSquaredError

__all__ = [
    "ArcFace",
    "BinaryCrossEntropy",
    "BuiltLoss",
    "ClassBalanced",
    "CrossEntropy",
    "FocalLoss",
    "GeneralisedCrossEntropy",
    "LogitAdjusted",
    "Loss",
    "MeanSquaredError",
    "NegativeLogLikelihood",
    "PolyLoss",
    "SymmetricCrossEntropy",
    "full",
]
