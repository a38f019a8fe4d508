"""Averages of weights, judged and kept in the place of the weights themselves."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from pydantic import Field
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from core import keys as K
from core.batches import Batches
from core.part import Part
from core.state import State
from core.step import Setup, reseed


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


def average_epoch(setup: Setup, state: State, train: Batches) -> None:
    """At the end of an epoch: take its weights into the equal average, once that has begun.

    BatchNorm's mean and variance are the plain means over the batches of the same epoch, augmented as in training.
    Each of several processes sees its share of them; the first one's statistics are then everyone's, as they are in
    training (see `_end_of_epoch`). Norms that stand still keep their statistics.
    """
    epoch = len(state.history)
    if state.swa is None or setup.average_from is None or epoch < setup.average_from:
        return
    state.swa.update_parameters(state.model)
    # the noise of this pass (dropout) is a function of the step too, wherever training was taken up
    reseed(K.step_seeds(setup.seed, setup.rank, state.step, 1)[0], setup.device)
    images = (setup.augment(setup.normalise(batch)).images for batch in train.epoch(epoch))
    averaged = state.swa.module
    standing = setup.frozen.held(averaged, epoch) if setup.frozen else nullcontext()
    with torch.no_grad(), setup.precision(), standing:
        update_bn(images, averaged)
