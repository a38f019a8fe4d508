"""Predictions of a network for the images of a split, within a time limit."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from core import randomness
from core.inference.network import Network
from core.loading.images import Images
from core.report.slices import light

MOST_LOGITS = 2**25  # kept of a split: 128 MiB


@dataclass(frozen=True)
class Predictions:
    """Predictions for n images of a split.

    places: int64 [n], positions of the images in the split.  logits: float32 [n, C].  targets: int64 [n].
    total: number of images in the split.  light: float64 [n, 2], brightness and contrast of each image.
    """

    places: np.ndarray
    logits: torch.Tensor
    targets: torch.Tensor
    total: int
    light: np.ndarray

    @property
    def classes(self) -> torch.Tensor:
        """The predicted classes, int64 [n]."""
        return self.logits.argmax(dim=1)

    @property
    def right(self) -> np.ndarray:
        """Whether each prediction is correct, bool [n]."""
        return (self.classes == self.targets).numpy()

    @property
    def confidence(self) -> torch.Tensor:
        """The largest probability of each prediction, float32 [n]."""
        return self.logits.softmax(dim=1).amax(dim=1)


def predict(network: Network, images: Images, until: float) -> Predictions:
    """Predict images in random order until the time `until` (of time.monotonic) or MOST_LOGITS, but at least one chunk.

    Because of the order, the predicted images are a random sample of the split.
    """
    order = randomness.permutation(0, 0, len(images))
    found: list[torch.Tensor] = []
    seen: list[np.ndarray] = []
    for start in range(0, len(order), network.chunk):
        if start and (time.monotonic() > until or sum(part.numel() for part in found) >= MOST_LOGITS):
            break
        shown = pixels(images, order[start : start + network.chunk])  # image files are decoded here, once
        found.append(network.logits(shown))
        seen.append(light(shown))
    logits = torch.cat(found)
    places = order[: len(logits)]
    return Predictions(places, logits, torch.from_numpy(images.targets[places]), len(images), np.concatenate(seen))


def pixels(images: Images, places: np.ndarray) -> np.ndarray:
    """Returns the images at these positions, uint8 [n, H, W, C], in memory."""
    return np.ascontiguousarray(images.pixels[images.rows[places]])
