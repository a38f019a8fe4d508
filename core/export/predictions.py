"""The predictions of an engine, and which of them are right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.loading.images import Images

Predict = Callable[[np.ndarray], np.ndarray]  # images uint8 [N, H, W, C] -> probabilities float32 [N, classes]
CHUNK = 32  # images in a call


def of_split(predict: Predict, images: Images) -> np.ndarray:
    """The predictions for all images of a split, float32 [N, classes], in its order."""
    found = []
    for start in range(0, len(images), CHUNK):
        found.append(predict(np.ascontiguousarray(images.pixels[images.rows[start : start + CHUNK]])))
    return np.concatenate(found)


def decided(probabilities: np.ndarray, multi_label: bool) -> np.ndarray:
    """The class of each image, int64 [N]; of multi-label images, whether they have each label, bool [N, classes]."""
    found: np.ndarray = probabilities >= 0.5 if multi_label else probabilities.argmax(axis=1)
    return found


def is_right(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Whether each prediction is correct, bool [N]; of multi-label images, whether all labels are."""
    if targets.ndim == 2:
        exact: np.ndarray = (decided(probabilities, True) == (targets > 0.5)).all(axis=1)
        return exact
    right: np.ndarray = decided(probabilities, False) == targets
    return right
