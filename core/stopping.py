"""Early stopping and the choice of the best epoch: functions of the validation history. No counter to save."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from core.part import Part
from core.schedules import History

Metric = Literal["val/accuracy", "val/balanced_accuracy", "val/f1", "val/loss", "val/nll"]


def sign(metric: str) -> int:
    """1 where larger is better, -1 where smaller is."""
    return -1 if metric.endswith(("loss", "nll")) else 1


def best_epoch(history: History, metric: str) -> int:
    """Index of the best epoch so far, the first of equals; NaN is worst. History must not be empty."""
    scores = [sign(metric) * entry[metric] for entry in history]
    return max(range(len(scores)), key=lambda i: -math.inf if math.isnan(scores[i]) else scores[i])


class EarlyStopping(Part):
    """Stop when `metric` has not improved by more than `min_delta` for `patience` epochs (Prechelt 1998)."""

    patience: int = Field(10, ge=1, description="epochs without improvement that are borne")
    min_delta: float = Field(0.0, ge=0, description="an improvement must exceed this, in units of the metric")
    metric: Metric = Field("val/accuracy", description="what is watched")

    def __call__(self, history: History) -> bool:
        best, since = -float("inf"), 0
        for entry in history:
            score = sign(self.metric) * entry[self.metric]
            best, since = (score, 0) if score > best + self.min_delta else (best, since + 1)
        return since >= self.patience
