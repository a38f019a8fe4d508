"""Contexts and data for tests of networks."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from core.context import Context
from core.loading.images import Dataset, Images, Splits
from core.models import Model


def context(classes=("a", "b", "c", "d"), shape=(32, 32, 3)):
    return Context(tuple(classes), (1,) * len(classes), shape, 8, 1, 1, 8, torch.device("cpu"))


class Others(Dataset):
    """Forty-eight gray images of three classes."""

    def load(self, root=None):
        pixels = np.random.default_rng(1).integers(0, 256, (48, 6, 6, 1)).astype(np.uint8)
        images = Images(pixels, np.arange(48), np.arange(48) % 3)
        train, val = images.take(np.arange(40)), images.take(np.arange(40, 48))
        return Splits("others", tuple("xyz"), train, val, val, "other digest", "made up")


class Looks(Model):
    """Its way depends on what it sees, which torch.export refuses."""

    def network(self, context):
        return Undecided(len(context.classes))


class Undecided(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(classes))

    def forward(self, x):
        return (self.scale if x.sum() > 0 else 2 * self.scale).expand(x.shape[0], -1)
