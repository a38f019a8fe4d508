"""Weight averaging: exponential moving average (EMA) and stochastic weight averaging (SWA)."""

from __future__ import annotations

import math

from pydantic import Field
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from core.declare.part import Part


class Ema(Part):
    """Exponential moving average of the weights (Polyak and Juditsky 1992), evaluated and saved instead of them."""

    decay: float = Field(0.999, gt=0, lt=1, description="decay of the average at each optimizer step")


class Swa(Part):
    """Stochastic weight averaging (Izmailov et al. 2018, algorithm 1, with cycles of one epoch).

    From `start` on, the average of the weights at the end of each epoch is evaluated and saved; the statistics of
    BatchNorm are recomputed for it with a pass over the training batches. Before `start`, the weights themselves are
    evaluated. It is meant to be used with a constant or cyclic learning rate.
    """

    start: float = Field(0.75, ge=0, lt=1, description="fraction of the declared epochs after which averaging starts")

    def first_epoch(self, epochs: int) -> int:
        """The epoch, counted from 0, at whose end averaging starts."""
        return math.floor(self.start * epochs)


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the weights of a model; buffers are copied."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def equal_average(model: nn.Module) -> AveragedModel:
    """An equally weighted average of the weights of a model; the first update starts it."""
    return AveragedModel(model)
