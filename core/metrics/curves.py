"""Areas under curves of each class against the rest, and their mean over classes; of labels, too."""

from __future__ import annotations

import math

import numpy as np

from core.metrics.answers import Answers
from core.metrics.base import Metric


class AUROC(Metric):
    """Area under the ROC curve of each class against the rest, mean over classes (Hand and Till 2001, section 2), as
    scikit-learn's roc_auc_score with multi_class="ovr". It is not defined if a class has no image."""

    def value(self, answers: Answers) -> float:
        from sklearn.metrics import roc_auc_score

        present, scores = _present(answers), answers.probabilities
        defined = (present.min(axis=0) == 0) & (present.max(axis=0) == 1)
        return float(roc_auc_score(present, scores, average="macro")) if defined.all() else math.nan


class AveragePrecision(Metric):
    """Average precision of each class against the rest, mean over classes (Everingham et al. 2010, section 4.2, without
    interpolation), as scikit-learn's average_precision_score. It is not defined if a class has no image."""

    def value(self, answers: Answers) -> float:
        from sklearn.metrics import average_precision_score

        present, scores = _present(answers), answers.probabilities
        defined = present.any(axis=0).all()
        return float(average_precision_score(present, scores, average="macro")) if defined else math.nan


def _present(answers: Answers) -> np.ndarray:
    """Whether each image has each class, 0 or 1, [N, C]."""
    return answers.targets if answers.multi_label else np.eye(len(answers.classes))[answers.targets]
