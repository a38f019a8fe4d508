"""Compute the content of a report; page.py renders it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from core.inference.network import Network
from core.loading.duplicates import Duplicates, near_duplicates
from core.loading.images import Splits
from core.report.calibration import Calibration, calibration, fitted_temperature
from core.report.predictions import Answers, ask, pixels
from core.report.saliency import activation_maps
from core.report.slices import Slice, traits, worst_slices

MISTAKES = 12  # shown, the most confident ones
PAIRS = 6  # of near-duplicates shown
_FOR_ANSWERS = 0.7  # of the time


@dataclass(frozen=True)
class Mistake:
    """pixels: uint8 [H, W, C].  map: float [H, W] in 0..1, the class activation map of the predicted class, or None."""

    pixels: np.ndarray
    map: np.ndarray | None
    true: str
    said: str
    confidence: float


@dataclass(frozen=True)
class Findings:
    """What was found in a trained network's answers and in its data.

    wrong: how many mistakes there are among the answers.  temperature: fitted on val; None where val has no mistake.
    before, after: calibration on test without and with it.
    """

    test: Answers
    val: Answers
    wrong: int
    mistakes: tuple[Mistake, ...]
    temperature: float | None
    before: Calibration
    after: Calibration
    slices: tuple[Slice, ...]
    duplicates: Duplicates
    pairs: tuple[tuple[np.ndarray, np.ndarray], ...]


def look_into(network: Network, splits: Splits, seconds: float) -> Findings:
    """Question the network and look through the data, in about so many seconds: what is more is sampled."""
    begun = time.monotonic()
    test = ask(network, splits.test, begun + _FOR_ANSWERS * seconds * 2 / 3)
    val = ask(network, splits.val, begun + _FOR_ANSWERS * seconds)
    temperature = fitted_temperature(val.logits, val.targets)
    right = test.right
    slices = worst_slices(test.targets.numpy(), right, traits(splits.test, test.places, test.light), splits.classes)
    duplicates = near_duplicates(splits.test, splits.train, begun + seconds)
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


def _mistakes(network: Network, splits: Splits, test: Answers) -> tuple[Mistake, ...]:
    wrong = np.flatnonzero(~test.right)
    worst = wrong[np.argsort(-test.confidence.numpy()[wrong], kind="stable")[:MISTAKES]]
    if not len(worst):
        return ()
    shown, said = pixels(splits.test, test.places[worst]), test.predictions[torch.from_numpy(worst)]
    with network.precision():
        maps = activation_maps(network.model, network.images(shown), said.to(network.device))
    return tuple(
        Mistake(
            shown[place],
            None if maps is None else maps[place].cpu().numpy(),
            splits.classes[int(test.targets[row])],
            splits.classes[int(said[place])],
            float(test.confidence[row]),
        )
        for place, row in enumerate(worst)
    )
