"""Static int8 quantization after training, by NNCF, calibrated on training images and checked on validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from core import randomness
from core.common import extras
from core.common.errors import UserError
from core.export.predictions import Predict, is_right
from core.export.quiet import quiet
from core.loading.images import Images

CALIBRATION = 300  # images that the ranges of activations are measured on
CHECKED = 1000  # validation images that decide which layers stay in float


@dataclass(frozen=True)
class Int8:
    """calibration: uint8 [N, H, W, C].  checked, targets: validation images and their targets.  at_most: share of the
    correct answers that may be lost before layers go back to float."""

    calibration: np.ndarray
    checked: np.ndarray
    targets: np.ndarray
    at_most: float

    @classmethod
    def of(cls, train: Images, val: Images, at_most: float) -> Int8:
        """Draw the images of both by key, so that the same run is always quantized in the same way."""
        some, others = _drawn(train, CALIBRATION), _drawn(val, CHECKED)
        return cls(some.pixels[some.rows], others.pixels[others.rows], others.targets, at_most)


def quantized(
    model: Any,
    plan: Int8,
    predict: Callable[[Any], Predict],
    inputs: Callable[[np.ndarray], Any] = lambda images: images,
) -> Any:
    """A model of ONNX or OpenVINO with int8 weights and activations. If too many answers are lost, the layers that cost
    most go back to float (NNCF's accuracy control).

    predict: makes a function of images of a model.  inputs: what the model takes, from images uint8 [1, H, W, C].
    """
    nncf = extras.library("nncf", "export", "quantizing to int8")
    rows = [(plan.checked[at : at + 1], plan.targets[at]) for at in range(len(plan.checked))]

    def validate(candidate: Any, given: Iterable[tuple[np.ndarray, Any]]) -> tuple[float, list[float]]:
        answer = predict(candidate)
        right = [float(is_right(answer(images), np.asarray(target)[None])[0]) for images, target in given]
        return float(np.mean(right)), right

    try:
        with quiet("nncf"):
            return nncf.quantize_with_accuracy_control(
                model,
                nncf.Dataset([plan.calibration[at : at + 1] for at in range(len(plan.calibration))], inputs),
                nncf.Dataset(rows, lambda row: inputs(row[0])),
                validate,
                max_drop=plan.at_most,
                subset_size=len(plan.calibration),
            )
    except (AttributeError, KeyError, RuntimeError, ValueError) as error:  # what NNCF raises for unknown graphs
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError([f"NNCF cannot quantize this network to int8: {said}; leave --int8 out"]) from None


def _drawn(images: Images, most: int) -> Images:
    order = randomness.permutation(0, 0, len(images), "export")[:most]
    return images.take(np.sort(order))
