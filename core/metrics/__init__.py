"""Metrics of classification: the parts that a declaration may name, and what the names of metrics say about them.

Every run measures those of core/metrics/classification.py; a metric in a declaration is a function of answers.
"""

from core.metrics.base import Metric
from core.metrics.curves import AUROC, AveragePrecision
from core.metrics.single_label import Brier, CohenKappa, MatthewsCorrCoef, TopK
from core.metrics.torchmetric import Torchmetric

__all__ = [
    "AUROC",
    "AveragePrecision",
    "Brier",
    "CohenKappa",
    "MatthewsCorrCoef",
    "Metric",
    "TopK",
    "Torchmetric",
]
