"""Averages of weights, judged and kept in the place of the weights themselves."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch.optim.swa_utils import update_bn

from core import keys as K
from core.loading.batches import Batches
from core.schedules import Clock
from core.training.state import State
from core.training.step import Setup, reseed


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
    steps = len(train.plan)
    images = (
        setup.augment(setup.normalize(batch), Clock(step, steps, setup.epochs)).images
        for step, batch in enumerate(train.epoch(epoch), epoch * steps)
    )
    averaged = state.swa.module
    standing = setup.frozen.held(averaged, epoch) if setup.frozen else nullcontext()
    with torch.no_grad(), setup.precision(), standing:
        update_bn(images, averaged)
