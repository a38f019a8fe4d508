"""Metrics that are means over images, image by image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from core.metrics.answers import Answers


def right(answers: Answers) -> np.ndarray:
    """1 for an image whose class is predicted, else 0; float64 [N], whose mean is the accuracy."""
    return np.asarray(answers.predicted == answers.targets, dtype=np.float64)


def nll(answers: Answers) -> np.ndarray:
    """Negative log-likelihood of each image, float64 [N]."""
    if answers.places is not None:
        assert answers.log_sum is not None
        assert answers.own is not None
        kept: np.ndarray = np.subtract(answers.log_sum, answers.own, dtype=np.float64)
        return kept
    logits = answers.logits.astype(np.float64)
    own = np.take_along_axis(logits, answers.targets[:, None], axis=1)[:, 0]
    most = logits.max(axis=1)
    found: np.ndarray = np.log(np.exp(logits - most[:, None]).sum(axis=1)) + most - own
    return found


def brier(answers: Answers) -> np.ndarray:
    """Squared error of the probabilities of each image, summed over classes, float64 [N]. Raises UserError if not all
    logits are kept."""
    errors = answers.probabilities
    errors[np.arange(len(answers)), answers.targets] -= 1
    found: np.ndarray = (errors**2).sum(axis=1)
    return found


# of images that have one class each; loss: if it is the negative log-likelihood
PER_IMAGE: Mapping[str, Callable[[Answers], np.ndarray]] = {
    "accuracy": right,
    "nll": nll,
    "loss": nll,
    "brier": brier,
}
