"""Averages of weights as parts of a declaration."""

from __future__ import annotations

import math

from pydantic import Field
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from core.declare.part import Part


class Ema(Part):
    """Exponential moving average of the weights; evaluated and kept in their place (Polyak and Juditsky 1992)."""

    decay: float = Field(0.999, gt=0, lt=1, description="share of the average kept at each step")


class Swa(Part):
    """Stochastic weight averaging (Izmailov et al. 2018, algorithm 1, cycles of one epoch): the equal average of the
    weights at the end of each epoch from `start` on, BatchNorm's statistics computed anew by a pass over the training
    batches. Until then the weights themselves are judged. A constant or cyclic learning rate suits it.
    """

    start: float = Field(0.75, ge=0, lt=1, description="share of the declared epochs before the average begins")

    def first_epoch(self, epochs: int) -> int:
        """The epoch, from 0, at whose end the average begins."""
        return math.floor(self.start * epochs)


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights; buffers are copied as they are."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def equal_average(model: nn.Module) -> AveragedModel:
    """An equal average of weights; it begins with the first update."""
    return AveragedModel(model)
