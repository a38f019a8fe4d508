"""Compute the contents of a report; page.py renders them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from core.inference.network import Network
from core.loading.duplicates import Duplicates, near_duplicates
from core.loading.images import Splits
from core.report.calibration import Calibration, calibration, fitted_temperature
from core.report.predictions import Predictions, pixels, predict
from core.report.saliency import activation_maps
from core.report.slices import Slice, traits, worst_slices

MISTAKES = 12  # shown, the most confident ones
PAIRS = 6  # of near-duplicates shown
_FOR_PREDICTIONS = 0.7  # fraction of the time limit


@dataclass(frozen=True)
class Mistake:
    """A misclassified image.

    pixels: uint8 [H, W, C].  map: float [H, W] in 0..1, the class activation map of the predicted class, or None.
    """

    pixels: np.ndarray
    map: np.ndarray | None
    true: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class Findings:
    """The contents of a report.

    wrong: number of misclassified test images.  temperature: fitted on val; None if val has no misclassified image.
    before, after: calibration on test without and with the temperature.
    """

    test: Predictions
    val: Predictions
    wrong: int
    mistakes: tuple[Mistake, ...]
    temperature: float | None
    before: Calibration
    after: Calibration
    slices: tuple[Slice, ...]
    duplicates: Duplicates
    pairs: tuple[tuple[np.ndarray, np.ndarray], ...]


def analyze(network: Network, splits: Splits, seconds: float) -> Findings:
    """Evaluate the network and search the data for near-duplicates, in about so many seconds; the rest is sampled."""
    start = time.monotonic()
    test = predict(network, splits.test, start + _FOR_PREDICTIONS * seconds * 2 / 3)
    val = predict(network, splits.val, start + _FOR_PREDICTIONS * seconds)
    temperature = fitted_temperature(val.logits, val.targets)
    right = test.right
    slices = worst_slices(test.targets.numpy(), right, traits(splits.test, test.places, test.light), splits.classes)
    duplicates = near_duplicates(splits.test, splits.train, start + seconds)
    shown = duplicates.pairs[:PAIRS]
    pairs = zip(pixels(splits.test, shown[:, 0]), pixels(splits.train, shown[:, 1]), strict=True)
    return Findings(
        test,
        val,
        int((~right).sum()),
        _mistakes(network, splits, test),
        temperature,
        calibration(test.logits, test.targets),
        calibration(test.logits, test.targets, temperature or 1.0),
        tuple(slices),
        duplicates,
        tuple(pairs),
    )


def _mistakes(network: Network, splits: Splits, test: Predictions) -> tuple[Mistake, ...]:
    wrong = np.flatnonzero(~test.right)
    worst = wrong[np.argsort(-test.confidence.numpy()[wrong], kind="stable")[:MISTAKES]]
    if not len(worst):
        return ()
    shown, predicted = pixels(splits.test, test.places[worst]), test.classes[torch.from_numpy(worst)]
    with network.precision():
        maps = activation_maps(network.model, network.images(shown), predicted.to(network.device))
    return tuple(
        Mistake(
            shown[place],
            None if maps is None else maps[place].cpu().numpy(),
            splits.classes[int(test.targets[row])],
            splits.classes[int(predicted[place])],
            float(test.confidence[row]),
        )
        for place, row in enumerate(worst)
    )
