"""Names of validation metrics, their direction, and the best epoch of a history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from core.common.text import did_you_mean

History = Sequence[Mapping[str, float]]  # one entry of metrics for each finished epoch

Metric = Literal[
    "val/accuracy",
    "val/loss",
    "val/top5",
    "val/balanced_accuracy",
    "val/precision",
    "val/recall",
    "val/f1",
    "val/nll",
    "val/ece",
    "val/map",
]
_SMALLER_IS_BETTER = ("loss", "nll", "ece")


def sign(metric: str) -> int:
    """1 if larger values of the metric are better, -1 if smaller ones are."""
    return -1 if metric.rsplit("/", 1)[-1] in _SMALLER_IS_BETTER else 1


def scores(history: History, metric: str) -> list[float]:
    """Values of a metric per epoch, with sign such that larger is better. Raises ValueError if it is not measured."""
    try:
        return [sign(metric) * entry[metric] for entry in history]
    except KeyError:
        measured = [name for name in history[0] if name.startswith("val/")]
        hint = did_you_mean(metric, measured) or f"; choose one of {', '.join(measured)}"
        raise ValueError(f"{metric} is not measured for these data{hint}") from None


def best_epoch(history: History, metric: str) -> int:
    """Index of the best epoch so far, the first one if several are equal; NaN is worst. History must not be empty."""
    ranked = scores(history, metric)
    return max(range(len(ranked)), key=lambda i: -math.inf if math.isnan(ranked[i]) else ranked[i])
