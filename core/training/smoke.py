"""The declaration that is trained: as given, or reduced for --smoke and --overfit."""

from __future__ import annotations

import math

from core.augment import Resize
from core.common.ranks import Ranks
from core.experiment import Experiment
from core.launch import Launch
from core.training.match_weights import matched


def smoked(experiment: Experiment, ranks: int = 1) -> Experiment:
    """Reduce a declaration to one epoch of three small batches, with Resize to two epochs; with long_tail, to more
    images, most of which it drops. ranks: number of processes or virtual shards."""
    parts = experiment.grad_accum_steps * ranks
    batch_size = parts * 2 * max(1, min(experiment.batch_size, 32) // (2 * parts))
    rarest = math.ceil(experiment.long_tail.factor) if experiment.long_tail else 1
    pruned = {"prune.start_epoch": 0, "prune.end_epoch": None} if experiment.prune else {}
    epochs = 2 if any(isinstance(step, Resize) for step in experiment.augment) else 1
    small = {"epochs": epochs, "batch_size": batch_size, "limit": 3 * batch_size * rarest} | pruned
    return experiment.but(small | ({"freeze.stages": experiment.freeze.begun(epochs)} if experiment.freeze else {}))


def declared(experiment: Experiment, launch: Launch, ranks: Ranks) -> Experiment:
    """The declaration that is trained and recorded: as given, with the images as pretrained weights expect them if
    declared, or reduced by --smoke and --overfit. Raises UserError."""
    experiment = matched(experiment) if experiment.match_weights else experiment
    small = smoked(experiment, launch.deterministic_ranks or ranks.ranks) if launch.smoke else experiment
    return overfitted(small, launch.overfit) if launch.overfit else small


def overfitted(experiment: Experiment, images: int) -> Experiment:
    """Reduce a declaration to one batch of `images` images, without augmentation, sampling or early stopping. Because
    `limit` is set, the run does not count as a complete one."""
    left_out = {"augment": (), "stopping": None, "sampling": None, "long_tail": None, "label_noise": None}
    return experiment.but(left_out | {"batch_size": images, "limit": images})
