"""Metric, the base class of metrics in a declaration, and their values for given answers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from core.declare.part import Part
from core.metrics.answers import Answers


class Metric(Part, ABC):
    """Base class of metrics that a declaration names: pure functions of the answers for a split.

    A metric is recorded as val/NAME after each epoch and as test/NAME at the end, where NAME is its `label`: the name
    of its class in snake_case.
    """

    larger_is_better: ClassVar[bool] = True
    several_tasks: ClassVar[bool] = False

    @abstractmethod
    def value(self, answers: Answers) -> float:
        """The metric of a split; NaN if it is not defined for its targets."""

    def direction(self) -> int | None:
        """1 if larger values are better, -1 if smaller ones are, None if that is not known: such a metric cannot be
        monitored."""
        return 1 if self.larger_is_better else -1


def measured(metrics: Sequence[Metric], answers: Answers) -> dict[str, float]:
    """{label: value} of the metrics that are defined for these answers. If a logit is not a number, all are NaN, as the
    loss is."""
    if np.isnan(answers.logits).any():
        return {metric.label(): math.nan for metric in metrics}
    values = {metric.label(): float(metric.value(answers)) for metric in metrics}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def undefined(answers: Answers) -> str:
    """Why a metric may have no value: the classes without an image."""
    counts = answers.targets.sum(axis=0) if answers.multi_label else _counts(answers)
    absent = [answers.classes[label] for label in np.flatnonzero(counts == 0)]
    everywhere = [answers.classes[label] for label in np.flatnonzero(counts == len(answers))]
    if absent:
        return f"{answers.split} has no image of {', '.join(absent[:5])}" + ", ..." * (len(absent) > 5)
    return f"each image of {answers.split} is of {everywhere[0]}" if everywhere else "its value is not a number"


def _counts(answers: Answers) -> np.ndarray:
    return np.bincount(answers.targets, minlength=len(answers.classes))
