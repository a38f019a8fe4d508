"""Loss functions: (logits [N, C], targets) -> unreduced losses [N]. Training minimizes their mean.

targets: class indices, int64 [N], or class probabilities, float [N, C], after Mixup or CutMix.
"""

from core.common.tensors import full
from core.losses.base import BuiltLoss, Loss
from core.losses.binary import BinaryCrossEntropy, MeanSquaredError
from core.losses.cross_entropy import CrossEntropy, FocalLoss, NegativeLogLikelihood, PolyLoss
from core.losses.imbalance import ClassBalanced, LogitAdjusted
from core.losses.robust import GeneralizedCrossEntropy, SymmetricCrossEntropy
from core.losses.tasks import TaskLosses
from core.losses.torch_loss import TorchLoss
from core.losses.total import Sum
from core.losses.with_head import ArcFace

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
    "Sum",
    "SymmetricCrossEntropy",
    "TaskLosses",
    "TorchLoss",
    "full",
]
