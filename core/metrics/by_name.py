"""Metrics by name, computed from answers: those of training, scikit-learn's, and any classification metric of
torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from core.common.errors import UserError
from core.common.text import did_you_mean
from core.metrics.answers import Answers
from core.metrics.classification import from_confusion, from_likelihood, likelihood_sums
from core.metrics.confusion import confusion_of
from core.metrics.task import MULTI_LABEL

Function = Callable[[Answers], float]


def compute(answers: Answers, name: str, arguments: Mapping[str, Any] | None = None) -> float:
    """The value of a metric.

    name: of OWN, or the class of a metric in torchmetrics.classification, such as MulticlassAUROC, with arguments;
    num_classes or num_labels need not be given. Raises UserError for a name that is not known, and for a metric that is
    not defined for these answers.
    """
    known = LABELS if answers.multi_label else OWN
    if name in known and not arguments:
        value = known[name](answers)
    else:
        value = _torchmetric(answers, name, dict(arguments or {}), known)
    if math.isnan(value):
        raise UserError([f"{name} is not defined for these answers: {_reason(answers)}"])
    return value


def _reason(answers: Answers) -> str:
    """Why a metric that needs every class may have no value."""
    counts = (
        answers.targets.sum(axis=0) if answers.multi_label else np.bincount(answers.targets, minlength=_size(answers))
    )
    absent = [answers.classes[label] for label in np.flatnonzero(counts == 0)]
    return f"{answers.split} has no image of {', '.join(absent[:5])}" if absent else "its value is not a number"


def _size(answers: Answers) -> int:
    return len(answers.classes)


def _whole(answers: Answers, name: str) -> np.ndarray:
    """The probabilities of all classes, float64 [N, C]. Raises UserError if they are not kept."""
    if answers.places is not None:
        kept = answers.logits.shape[1]
        raise UserError(
            [f"{name} needs the probabilities of all classes; of {_size(answers):,} classes, {kept} are kept"]
        )
    logits = torch.from_numpy(answers.logits).double()
    return (logits.sigmoid() if answers.multi_label else logits.softmax(dim=1)).numpy()


def _of_confusion(name: str) -> Function:
    def value(answers: Answers) -> float:
        predicted, targets = map(torch.from_numpy, (answers.predicted, answers.targets))
        return from_confusion(confusion_of(predicted, targets, _size(answers)))[name]

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


def _top(k: int) -> Function:
    def value(answers: Answers) -> float:
        order = np.argsort(-answers.logits, axis=1, kind="stable")[:, :k]
        found = order if answers.places is None else np.take_along_axis(answers.places, order, axis=1)
        return float((found == answers.targets[:, None]).any(axis=1).mean())

    return value


def _brier(answers: Answers) -> float:
    """Mean squared error of the probabilities, summed over classes (Brier 1950): 0 to 2."""
    probabilities = _whole(answers, "brier")
    probabilities[np.arange(len(answers)), answers.targets] -= 1
    return float((probabilities**2).sum(axis=1).mean())


def _auroc(answers: Answers) -> float:
    """Area under the ROC curve, one class against the rest, mean over classes."""
    from sklearn.metrics import roc_auc_score

    probabilities = _whole(answers, "auroc")
    present = answers.targets if answers.multi_label else np.eye(_size(answers))[answers.targets]
    defined = (present.min(axis=0) == 0) & (present.max(axis=0) == 1)
    if not defined.all():
        return math.nan
    return float(roc_auc_score(present, probabilities, average="macro"))


def _average_precision(answers: Answers) -> float:
    """Average precision, one class against the rest, mean over classes."""
    from sklearn.metrics import average_precision_score

    probabilities = _whole(answers, "average_precision")
    present = answers.targets if answers.multi_label else np.eye(_size(answers))[answers.targets]
    if not present.max(axis=0).all():
        return math.nan
    return float(average_precision_score(present, probabilities, average="macro"))


def _kappa(answers: Answers) -> float:
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(answers.targets, answers.predicted))


def _matthews(answers: Answers) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(answers.targets, answers.predicted))


def _of_labels(name: str) -> Function:
    def value(answers: Answers) -> float:
        logits, targets = torch.from_numpy(answers.logits), torch.from_numpy(answers.targets)
        table, sums = MULTI_LABEL.count(logits, targets)
        return MULTI_LABEL.summary(table, torch.cat([torch.zeros(1), sums]))[name]

    return value


OWN: Mapping[str, Function] = {
    **{name: _of_confusion(name) for name in ("accuracy", "balanced_accuracy", "precision", "recall", "f1")},
    "top5": _top(5),
    "nll": _of_likelihood("nll"),
    "ece": _of_likelihood("ece"),
    "brier": _brier,
    "auroc": _auroc,
    "average_precision": _average_precision,
    "cohen_kappa": _kappa,
    "matthews_corrcoef": _matthews,
}
LABELS: Mapping[str, Function] = {
    **{name: _of_labels(name) for name in ("accuracy", "map", "f1")},
    "auroc": _auroc,
    "average_precision": _average_precision,
}


def _torchmetric(answers: Answers, name: str, arguments: dict[str, Any], known: Mapping[str, Function]) -> float:
    try:
        from torchmetrics import classification
    except ImportError:
        if name[:1].isupper():
            raise UserError([f"{name} needs torchmetrics: pip install torchmetrics"]) from None
        raise UserError([_unknown(name, list(known))]) from None
    prefix = "Multilabel" if answers.multi_label else "Multiclass"
    names = [each for each in dir(classification) if each.startswith(prefix)]
    if name not in names:
        raise UserError([_unknown(name, [*known, *names])])
    size = {"num_labels" if answers.multi_label else "num_classes": _size(answers)}
    scores = torch.from_numpy(_whole(answers, name)).float()
    try:
        value = getattr(classification, name)(**size, **arguments)(scores, torch.from_numpy(answers.targets).long())
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError([f"{name}: {str(error).splitlines()[0]}"]) from None
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise UserError([f"{name} is not a single number; if it takes an average, use one, such as average=macro"])
    return float(value)


def _unknown(name: str, known: list[str]) -> str:
    return f"{name}: unknown metric{did_you_mean(name, known) or '; choose one of ' + ', '.join(known[:13])}"
