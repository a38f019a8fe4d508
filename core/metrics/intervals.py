"""Intervals over images of the metrics of answers."""

from __future__ import annotations

import numpy as np

from core.common.statistics import wilson
from core.metrics.answers import Answers
from core.metrics.bootstrap import interval
from core.metrics.by_name import compute


def over_images(answers: Answers, name: str) -> tuple[float, float]:
    """The 95 % interval of a metric over images: Wilson's of a share, percentiles of a bootstrap otherwise."""
    n = len(answers)
    if name == "accuracy" and not answers.tasks:
        low, high = wilson(np.array(round(compute(answers, name) * n)), np.array(n))
        return float(low), float(high)
    return interval(lambda rows: compute(answers.in_order(rows), name), n)
