"""Context: the properties of data and run that parts are built from; Clock: the position in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Context:
    """Argument of `build(context)`: properties of the data and the run.

    classes: names, in the order of the logits.  class_counts: training samples of each class.
    image_shape: (height, width, channels).  batch_size: of one optimizer step, over all ranks.
    mean, std: per channel, of pixels in 0..1, used to normalize batches; without mean, each image is normalized by its
    own statistics.  seed: of the run.  directions: of the declared metrics, {val/NAME: 1 if larger values are better,
    -1 if smaller ones are}.  sample: reads at most n training images, float [n, C, H, W] on the CPU, normalized and not
    augmented, the same for every seed; None where a network is rebuilt from a record, since its weights follow.
    network: to be trained, for the method; None for other parts.
    tasks: the blocks of the classes of several tasks; () for a single one.
    """

    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    image_shape: tuple[int, int, int]
    train_size: int
    steps_per_epoch: int
    epochs: int
    batch_size: int
    device: torch.device
    rank: int = 0
    ranks: int = 1
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    seed: int = 0
    directions: Mapping[str, int] = field(default_factory=dict)
    sample: Callable[[int], torch.Tensor] | None = None
    network: nn.Module | None = None
    tasks: tuple[tuple[str, int], ...] = ()  # see core/common/blocks.py


class Clock(NamedTuple):
    """Position in training. step: optimizer steps, counted from 0."""

    step: int
    steps_per_epoch: int
    epochs: int

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    @property
    def total(self) -> int:
        return self.steps_per_epoch * self.epochs
