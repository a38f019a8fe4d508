"""Whether the probabilities mean what they say, and the one number that mends most of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from core.metrics import BINS, from_likelihood, likelihood

LARGEST = 20.0  # temperature; and its inverse the smallest


@dataclass(frozen=True)
class Calibration:
    """count, confidence, accuracy: float64 [BINS], of each bin of confidence (NaN where it is empty).  ece: expected
    calibration error, 0..1.  nll: in nats."""

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float
    nll: float


def calibration(logits: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0) -> Calibration:
    """Of logits float [N, C] divided by the temperature, targets int64 [N] (Guo et al. 2017, section 2)."""
    sums = likelihood(logits.double() / temperature, targets)
    count, confidence, right = sums[1:].view(3, BINS).numpy()
    with np.errstate(invalid="ignore"):
        return Calibration(count, confidence / count, right / count, **from_likelihood(sums))


def fitted_temperature(logits: torch.Tensor, targets: torch.Tensor) -> float | None:
    """What logits float [N, C] are to be divided by for the least negative log-likelihood of targets int64 [N],
    between 1 / LARGEST and LARGEST (Guo et al. 2017, section 4.2). To be fitted on validation data, never on test.
    None where every answer is right: the surer, the better."""
    from scipy.optimize import minimize_scalar

    if bool((logits.argmax(dim=1) == targets).all()):
        return None

    wide = logits.detach().double()

    def loss(inverse: float) -> float:
        return float(F.cross_entropy(wide * math.exp(inverse), targets))

    # convex in 1 / temperature, so unimodal in its logarithm
    found = minimize_scalar(loss, bounds=(-math.log(LARGEST), math.log(LARGEST)), method="bounded")
    return math.exp(-float(found.x))
