"""Metrics by name, computed from answers: those of training, those that a declaration may name, and any classification
metric of torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from core.common.blocks import spans
from core.common.errors import UserError
from core.common.text import did_you_mean
from core.declare.tree import choices
from core.metrics.answers import Answers
from core.metrics.base import Metric, undefined
from core.metrics.classification import from_confusion, from_likelihood, likelihood_sums
from core.metrics.confusion import confusion_of
from core.metrics.curves import AUROC, AveragePrecision
from core.metrics.names import EXACT_MATCH
from core.metrics.single_label import Brier, CohenKappa, MatthewsCorrCoef, TopK
from core.metrics.task import MULTI_LABEL
from core.metrics.torchmetric import LABELS, ONE_CLASS, Torchmetric, names

Function = Callable[[Answers], float]


def compute(answers: Answers, name: str, arguments: Mapping[str, Any] | None = None) -> float:
    """The value of a metric.

    name: of `known`; the class of a Metric; or that of a metric in torchmetrics.classification, such as
    MulticlassAUROC; with several tasks, this with the name of a task: accuracy_color. arguments: the fields of the
    class; num_classes or num_labels need not be given. Raises UserError for a name that is not known, and for a metric
    that is not defined for these answers.
    """
    try:
        value = _function(answers, name, dict(arguments or {}))(answers)
    except UserError as error:
        raise UserError(f"{name}: {line}" for line in error.lines) from None
    if math.isnan(value):
        raise UserError([f"{name} is not defined for these answers: {undefined(answers)}"])
    return value


def _function(answers: Answers, name: str, arguments: dict[str, Any]) -> Function:
    if answers.tasks:
        return _of_tasks(answers, name, arguments)
    own = OF_LABELS if answers.multi_label else OWN
    if name in own and not arguments:
        return own[name]
    if kind := choices(Metric).get(name):  # type: ignore[type-abstract]
        metric = kind.read(arguments)
        if answers.multi_label and not getattr(metric, "multi_label", True):
            raise UserError(["it supports only single-label images"])
        return metric.value
    theirs = names(LABELS if answers.multi_label else ONE_CLASS) if name[:1].isupper() else []
    if name not in theirs:
        hint = did_you_mean(name, [*own, *theirs]) or "; choose one of " + ", ".join([*own, *theirs][:13])
        raise UserError([f"unknown metric{hint}"])
    return Torchmetric(name=name, arguments=arguments).value


def _of_tasks(answers: Answers, name: str, arguments: dict[str, Any]) -> Function:
    """accuracy, the mean over the tasks; exact_match; or METRIC_TASK, a metric of one task."""
    tasks = [task for task, _ in answers.tasks]
    if name == "accuracy" and not arguments:
        return lambda some: float(np.mean([compute(some.of_task(task), name) for task in tasks]))
    if name == EXACT_MATCH and not arguments:
        return _exact_match
    for task in sorted(tasks, key=len, reverse=True):
        if name.endswith(f"_{task}"):
            own = name.removesuffix(f"_{task}")
            return lambda some: compute(some.of_task(task), own, arguments)
    each = [f"accuracy_{task}" for task in tasks]
    hint = did_you_mean(name, each) or "; choose one of " + ", ".join(["accuracy", EXACT_MATCH, *each])
    raise UserError([f"unknown metric{hint}, or another metric of a task, as f1_{tasks[0]}"])


def _exact_match(answers: Answers) -> float:
    """The share of images of which every known label is predicted."""
    right = np.ones(len(answers), dtype=bool)
    for _, columns in spans(answers.tasks):
        own = answers.targets[:, columns]
        right &= ~own.any(axis=1) | (answers.logits[:, columns].argmax(axis=1) == own.argmax(axis=1))
    return float(right.mean())


def _of_confusion(name: str) -> Function:
    def value(answers: Answers) -> float:
        predicted, targets = map(torch.from_numpy, (answers.predicted, answers.targets))
        return from_confusion(confusion_of(predicted, targets, len(answers.classes)))[name]

    return value


def _of_likelihood(name: str) -> Function:
    def value(answers: Answers) -> float:
        logits = torch.from_numpy(answers.logits).double()
        targets = torch.from_numpy(answers.targets)
        if answers.places is None:
            log_sum, own = logits.logsumexp(dim=1), logits.gather(1, targets[:, None])[:, 0]
        else:
            assert answers.log_sum is not None
            assert answers.own is not None
            log_sum, own = (torch.from_numpy(part).double() for part in (answers.log_sum, answers.own))
        confidence = (logits.amax(dim=1) - log_sum).exp()
        right = torch.from_numpy(answers.predicted == answers.targets)
        return from_likelihood(likelihood_sums(own - log_sum, confidence, right))[name]

    return value


def _of_labels(name: str) -> Function:
    def value(answers: Answers) -> float:
        logits, targets = torch.from_numpy(answers.logits), torch.from_numpy(answers.targets)
        table, sums = MULTI_LABEL.count(logits, targets)
        return MULTI_LABEL.summary(table, torch.cat([torch.zeros(1), sums]))[name]

    return value


def _labeled(*metrics: Metric) -> dict[str, Function]:
    return {metric.label(): metric.value for metric in metrics}


OWN: Mapping[str, Function] = {
    **{name: _of_confusion(name) for name in ("accuracy", "balanced_accuracy", "precision", "recall", "f1")},
    **{name: _of_likelihood(name) for name in ("nll", "ece")},
    **_labeled(TopK(k=5), Brier(), AUROC(), AveragePrecision(), CohenKappa(), MatthewsCorrCoef()),
}
OF_LABELS: Mapping[str, Function] = {
    **{name: _of_labels(name) for name in ("accuracy", "map", "f1")},
    **_labeled(AUROC(), AveragePrecision()),
}
