"""What a network says of each image of a split, while there is time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from core import randomness
from core.inference.network import Network
from core.loading.images import Images
from core.report.slices import light

CHUNK = {"cpu": 64, "cuda": 512, "mps": 256}


@dataclass(frozen=True)
class Answers:
    """Of some images of a split. places: int64 [n], their positions in it.  logits: float32 [n, C].  targets: int64
    [n].  total: how many images the split has.  light: float64 [n, 2], brightness and contrast of each."""

    places: np.ndarray
    logits: torch.Tensor
    targets: torch.Tensor
    total: int
    light: np.ndarray

    @property
    def predictions(self) -> torch.Tensor:
        """int64 [n]"""
        return self.logits.argmax(dim=1)

    @property
    def right(self) -> np.ndarray:
        """bool [n]"""
        return (self.predictions == self.targets).numpy()

    @property
    def confidence(self) -> torch.Tensor:
        """float32 [n], the largest probability."""
        return self.logits.softmax(dim=1).amax(dim=1)


def ask(network: Network, images: Images, until: float) -> Answers:
    """Answers on the images, in an order drawn by lot, as many as can be had until then (time.monotonic); one chunk
    at least, so that those had are a fair sample of all."""
    order = randomness.permutation(0, 0, len(images))
    chunk, found, seen = CHUNK.get(network.device.type, 64), [], []
    for start in range(0, len(order), chunk):
        if start and time.monotonic() > until:
            break
        shown = pixels(images, order[start : start + chunk])  # of files, decoded here and not again
        found.append(network.logits(shown))
        seen.append(light(shown))
    logits = torch.cat(found)
    places = order[: len(logits)]
    return Answers(places, logits, torch.from_numpy(images.targets[places]), len(images), np.concatenate(seen))


def pixels(images: Images, places: np.ndarray) -> np.ndarray:
    """uint8 [n, H, W, C] of the images at these positions, in memory."""
    return np.ascontiguousarray(images.pixels[images.rows[places]])
