"""Calibration of the predicted probabilities, and temperature scaling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from core.common import plots
from core.metrics.classification import BINS, from_likelihood, likelihood

LARGEST = 20.0  # largest temperature; the smallest is its inverse
AT_ONCE = 2**22  # logits that are converted to float64 at once


@dataclass(frozen=True)
class Calibration:
    """Calibration of predictions.

    count, confidence, accuracy: float64 [BINS], of each bin of confidence (NaN if it is empty).  ece: expected
    calibration error, 0..1.  nll: negative log-likelihood in nats.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float
    nll: float


def calibration(logits: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0) -> Calibration:
    """Returns the calibration of logits float [N, C], divided by the temperature, for targets int64 [N] (Guo et al.
    2017, section 2)."""
    parts = _parts(logits, targets)
    sums = torch.stack([likelihood(some.double() / temperature, their) for some, their in parts]).sum(dim=0)
    count, confidence, right = sums[1:].view(3, BINS).numpy()
    with np.errstate(invalid="ignore"):
        return Calibration(count, confidence / count, right / count, **from_likelihood(sums))


def fitted_temperature(logits: torch.Tensor, targets: torch.Tensor) -> float | None:
    """Fit the temperature by which logits float [N, C] are divided (Guo et al. 2017, section 4.2). targets: int64 [N].

    It minimizes the negative log-likelihood between 1 / LARGEST and LARGEST. Fit it on validation data, never on test.
    Returns None if every prediction is correct, because the likelihood would then increase without a limit.
    """
    from scipy.optimize import minimize_scalar

    if bool((logits.argmax(dim=1) == targets).all()):
        return None

    parts = _parts(logits.detach(), targets)

    def loss(inverse: float) -> float:
        each = (F.cross_entropy(some.double() * math.exp(inverse), their, reduction="sum") for some, their in parts)
        return float(sum(each)) / len(targets)

    # convex in 1 / temperature, so unimodal in its logarithm
    found = minimize_scalar(loss, bounds=(-math.log(LARGEST), math.log(LARGEST)), method="bounded")
    return math.exp(-float(found.x))


def _parts(logits: torch.Tensor, targets: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rows = max(1, AT_ONCE // logits.shape[1])
    return list(zip(logits.split(rows), targets.split(rows), strict=True))


def reliability(drawn: Mapping[str, Calibration], path: Path) -> None:
    """Draw a reliability diagram: accuracy over confidence, and the fraction of predictions in each bin."""
    figure = plots.new_figure(5, 5.2, layout=None)
    figure.subplots_adjust(left=0.13, right=0.97, bottom=0.1, top=0.93, hspace=0.1)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot((0, 1), (0, 1), color="gray", linestyle=":", linewidth=1)
    for at, (name, one) in enumerate(drawn.items()):
        upper.plot(one.confidence, one.accuracy, marker="o", markersize=4, label=f"{name}: ECE {one.ece:.2%}")
        bins = len(one.count)
        share = one.count / one.count.sum()
        lower.bar([(place + 0.5) / bins for place in range(bins)], share, 0.9 / bins, color=f"C{at}", alpha=0.5)
    upper.set(ylabel="accuracy", ylim=(0, 1), title="reliability on test")
    upper.legend(fontsize=8)
    upper.grid(alpha=0.3)
    lower.set(xlabel="confidence", ylabel="fraction of images", xlim=(0, 1))
    plots.save(figure, path)
