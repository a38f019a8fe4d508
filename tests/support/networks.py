"""Contexts and data for tests of networks."""

from __future__ import annotations

import numpy as np
import torch

from core.context import Context
from core.loading.images import Dataset, Images, Splits


def context(classes=("a", "b", "c", "d"), shape=(32, 32, 3)):
    return Context(tuple(classes), (1,) * len(classes), shape, 8, 1, 1, 8, torch.device("cpu"))


class Others(Dataset):
    """Forty-eight gray images of three classes."""

    def load(self, root=None):
        pixels = np.random.default_rng(1).integers(0, 256, (48, 6, 6, 1)).astype(np.uint8)
        images = Images(pixels, np.arange(48), np.arange(48) % 3)
        train, val = images.take(np.arange(40)), images.take(np.arange(40, 48))
        return Splits("others", tuple("xyz"), train, val, val, "other digest", "made up")
