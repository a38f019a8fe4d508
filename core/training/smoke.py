"""Declarations made small: --smoke and --overfit."""

from __future__ import annotations

import math

from core.common.ranks import ALONE, Ranks
from core.experiment import Experiment
from core.launch import Launch


def smoked(experiment: Experiment, ranks: Ranks = ALONE) -> Experiment:
    """The same pipeline in seconds: three small batches, one epoch; more, where classes are then made rare."""
    parts = experiment.grad_accum_steps * ranks.ranks
    batch_size = parts * 2 * max(1, min(experiment.batch_size, 32) // (2 * parts))
    rarest = math.ceil(experiment.long_tail.factor) if experiment.long_tail else 1
    return experiment.but({"epochs": 1, "batch_size": batch_size, "limit": 3 * batch_size * rarest})


def declared(experiment: Experiment, launch: Launch, ranks: Ranks) -> Experiment:
    """What is trained, and recorded as the declaration: the given one, or what --smoke and --overfit make of it.
    Raises UserError."""
    small = smoked(experiment, ranks) if launch.smoke else experiment
    return overfitted(small, launch.overfit) if launch.overfit else small


def overfitted(experiment: Experiment, images: int) -> Experiment:
    """The same set-up on one batch of so many images: they stand unchanged, and nothing stops it early. Its `limit`
    keeps it from counting among whole runs."""
    left_out = {"augment": (), "stopping": None, "sampling": None, "long_tail": None, "label_noise": None}
    return experiment.but(left_out | {"batch_size": images, "limit": images})
