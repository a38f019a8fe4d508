"""Averages of weights over epochs (SWA), evaluated and saved instead of the weights themselves."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from core import randomness as K
from core.loading.batches import Batches
from core.schedules import Clock
from core.training.state import State
from core.training.step import Setup, reseed


def average_epoch(setup: Setup, state: State, train: Batches) -> None:
    """Update the equal average with the weights at the end of an epoch, once averaging has started.

    BatchNorm's mean and variance are the plain means over the batches of the same epoch, augmented as in training.
    Each process uses its share of the batches; the statistics of rank 0 are then broadcast, as in training (see
    `end_of_epoch`). Frozen norms keep their statistics.
    """
    epoch = len(state.history)
    if state.swa is None or setup.average_from is None or epoch < setup.average_from:
        return
    state.swa.update_parameters(state.model)
    renew_statistics(setup, state.swa.module, train, epoch, state.step)


def renew_statistics(setup: Setup, averaged: nn.Module, train: Batches, epoch: int, step: int) -> None:
    """Recompute the mean and variance of each BatchNorm of an average over the batches of an epoch. step: optimizer
    steps done."""
    # the noise of this pass (dropout) is a function of the step, so that a resumed run repeats it
    reseed(K.step_seeds(setup.seed, setup.rank, step, 1)[0], setup.device)
    steps = len(train.plan)
    images = (
        setup.augment(setup.normalize(batch), Clock(step, steps, setup.epochs)).images
        for step, batch in enumerate(train.epoch(epoch), epoch * steps)
    )
    frozen = setup.frozen.held(averaged, epoch) if setup.frozen else nullcontext()
    with torch.no_grad(), setup.precision(), frozen:
        update_bn(images, averaged)
