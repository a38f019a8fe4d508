"""Names of validation metrics, their direction, and the best epoch of a history."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from core.common.errors import UserError
from core.common.text import did_you_mean, suggestion

History = Sequence[Mapping[str, float]]  # one entry of metrics for each finished epoch

MetricName = Literal[
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
MONITORED = f"{', '.join(get_args(MetricName))}, or val/NAME of a metric in metrics"
SPARSITY = "sparsity"  # metric of an epoch of a pruned network: the share of its weights that is removed
FRACTIONS = ("accuracy", "balanced_accuracy", "top5", "precision", "recall", "f1", "map")  # of 1, shown in percent

# The only place that knows directions. A name is looked up without the words of _ASIDE, so that val/loss, train_loss
# and eval.loss are one entry; a name that is not here has no direction, because a guess would name a false winner.
_LARGER = """
    accuracy acc acc1 acc_1 top1 top_1 top1_acc top1_accuracy acc_top1 prec1 prec_1 balanced_accuracy balanced_acc
    multiclassaccuracy binaryaccuracy exact_match hits correct
    top5 top_5 acc5 acc_5 top5_acc top5_accuracy acc_top5 prec5 prec_5 top_k_accuracy
    precision recall f1 f1_score f1score fbeta specificity sensitivity tpr tnr true_positive_rate true_negative_rate
    map ap average_precision auc auroc roc_auc auprc pr_auc dice dice_score iou miou jaccard
    kappa cohen_kappa mcc matthews_corrcoef r2 r2_score pearson spearman log_likelihood psnr ssim
    images_per_second samples_per_second examples_per_second throughput
"""
_SMALLER = """
    loss nll neg_log_likelihood negative_log_likelihood cross_entropy crossentropy log_loss logloss bce
    perplexity ppl brier brier_score ece mce calibration_error expected_calibration_error ece_at_temperature
    error err error_rate err1 err_1 err5 err_5 top1_error top1_err top5_error top5_err wer cer
    mse rmse mae mape squared_error absolute_error mean_squared_error mean_absolute_error hamming_loss
    false_positive_rate false_negative_rate fpr fnr fid
    seconds minutes hours time duration latency latency_ms time_ms step_time epoch_time training_time seconds_per_epoch
    seconds_per_step ms_per_step memory memory_mb peak_memory peak_memory_mb peak_memory_gb parameters params flops macs
    energy energy_wh near_duplicates
"""
_DIRECTIONS = dict.fromkeys(_LARGER.split(), 1) | dict.fromkeys(_SMALLER.split(), -1)
_ASIDE = {
    *(
        "train",
        "training",
        "val",
        "valid",
        "validation",
        "dev",
        "eval",
        "evaluation",
        "test",
        "epoch",
        "step",
        "report",
    ),
    *("macro", "micro", "weighted", "mean", "avg", "binary", "multiclass", "categorical", "sparse", "total"),
}


_OF_A_TASK = dict.fromkeys(("accuracy", "balanced_accuracy", "top5", "precision", "recall", "f1"), 1)
_OF_A_TASK |= dict.fromkeys(("nll", "ece", "loss"), -1)
DENSE = 1000  # classes up to which a confusion matrix is dense, and the most of each of several tasks
EXACT_MATCH = "exact_match"  # with several tasks: the share of images of which every known label is predicted


def of_tasks(tasks: Sequence[str]) -> dict[str, int]:
    """{name: direction} of the metrics that are measured for several tasks besides accuracy and loss; none without."""
    each = {f"{name}_{task}": better for name, better in _OF_A_TASK.items() for task in tasks}
    return {EXACT_MATCH: 1} | each if tasks else {}


def direction(metric: str) -> int | None:
    """1 if larger values of the metric are better, -1 if smaller ones are, None if that is not known."""
    words = [word for word in re.split(r"[^a-z0-9]+", metric.lower()) if word]
    return _DIRECTIONS.get("_".join(words)) or _DIRECTIONS.get("_".join(w for w in words if w not in _ASIDE))


def is_fraction(quantity: str) -> bool:
    """Whether a quantity, named without its split, is a share of 1, also one of a single task: accuracy_digit."""
    return quantity == EXACT_MATCH or any(quantity == name or quantity.startswith(f"{name}_") for name in FRACTIONS)


def step_between(metric: str, images: int) -> float:
    """The step between values of a metric over images: 1 / 72 of an accuracy on 72 images; 0 if it has no fixed one."""
    return 1 / images if images and metric.rpartition("/")[2] in ("accuracy", "top5") else 0.0


def sign(metric: str) -> int:
    """The direction of a metric, 1 or -1. Raises ValueError if it is not known."""
    if (found := direction(metric)) is None:
        raise ValueError(f"{metric}: it is not known whether larger or smaller values are better")
    return found


def of_validation(name: str) -> str:
    """The name, if it is that of a validation metric. Raises PydanticCustomError."""
    if not name.startswith("val/"):
        text = f"{name!r} is no validation metric{suggestion(name, get_args(MetricName))}"
        raise PydanticCustomError("class", "{text}", {"text": text})
    return name


Monitor = Annotated[str, AfterValidator(of_validation)]  # whether it is measured, the experiment knows

_NEEDS = dict.fromkeys(
    ("val/balanced_accuracy", "val/precision", "val/recall", "val/nll", "val/ece"), "it needs one class for each image"
) | {
    "val/top5": "it needs one class for each image and at least six classes, because with five it is always 100 %",
    "val/map": "it needs multi-label data",
}


def unmeasured(metric: str, measured: Collection[str]) -> str:
    """Returns the message that a metric is not measured for these data, why, and which to choose instead."""
    hint = did_you_mean(metric, measured) or f"; choose one of {', '.join(measured)}"
    reason = f" ({_NEEDS[metric]})" if metric in _NEEDS else ""
    return f"{metric} is not measured for these data{reason}{hint}"


def scores(history: History, metric: str, better: int | None = None) -> list[float]:
    """Values of a metric per epoch, with sign such that larger is better.

    better: direction of a declared metric; None: what its name says. Raises UserError if it is not measured, or not in
    each epoch.
    """
    factor = better or sign(metric)
    try:
        return [factor * entry[metric] for entry in history]
    except KeyError:
        lacking = [epoch for epoch, entry in enumerate(history, 1) if metric not in entry]
        if len(lacking) < len(history):
            reason = f"it is not defined in epoch {lacking[0]}, and a metric that is monitored needs a value in each"
            raise UserError([f"{metric}: {reason}"]) from None
        raise UserError([unmeasured(metric, [name for name in history[0] if name.startswith("val/")])]) from None


def best_epoch(history: History, metric: str, better: int | None = None) -> int:
    """Index of the best epoch so far. Of equal ones, it is the one with the smaller val/loss, then the later one; NaN
    is worst. While a network is being pruned, only the epochs with the highest sparsity count. History must not be
    empty. better: see scores."""
    ranked, losses = scores(history, metric, better), [entry.get("val/loss", math.nan) for entry in history]

    def rank(epoch: int) -> tuple[float, float, float, int]:
        score, loss = (-math.inf if math.isnan(value) else value for value in (ranked[epoch], -losses[epoch]))
        return history[epoch].get(SPARSITY, 0.0), score, loss, epoch

    return max(range(len(ranked)), key=rank)
