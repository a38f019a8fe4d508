"""Metrics of images that have one class each."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from core.metrics.answers import Answers
from core.metrics.base import Metric
from core.metrics.per_image import brier


class CohenKappa(Metric):
    """Agreement of predictions and targets beyond that of chance, -1 to 1 (Cohen 1960)."""

    multi_label: ClassVar[bool] = False

    def value(self, answers: Answers) -> float:
        from sklearn.metrics import cohen_kappa_score

        return float(cohen_kappa_score(answers.targets, answers.predicted))


class MatthewsCorrCoef(Metric):
    """Correlation coefficient of predictions and targets, -1 to 1 (Matthews 1975; of several classes: Gorodkin 2004,
    equation 8). Recorded as matthews_corrcoef, its name in scikit-learn."""

    multi_label: ClassVar[bool] = False

    def label(self) -> str:
        return "matthews_corrcoef"

    def value(self, answers: Answers) -> float:
        from sklearn.metrics import matthews_corrcoef

        return float(matthews_corrcoef(answers.targets, answers.predicted))


class Brier(Metric):
    """Mean squared error of the probabilities, summed over classes, 0 to 2 (Brier 1950, equation 2)."""

    multi_label: ClassVar[bool] = False
    larger_is_better: ClassVar[bool] = False

    def value(self, answers: Answers) -> float:
        return float(brier(answers).mean())


class TopK(Metric):
    """Share of images whose class is among the k largest logits (Russakovsky et al. 2015, section 4.1). Recorded as
    topK, such as top3."""

    multi_label: ClassVar[bool] = False

    k: int = Field(3, ge=1, le=20, description="number of largest logits")

    def label(self) -> str:
        return f"top{self.k}"

    def value(self, answers: Answers) -> float:
        found = np.argsort(-answers.logits, axis=1, kind="stable")[:, : self.k]
        if answers.places is not None:
            found = np.take_along_axis(answers.places, found, axis=1)
        return float((found == answers.targets[:, None]).any(axis=1).mean())
