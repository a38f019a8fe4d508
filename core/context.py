"""What a part may know of the world when it is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Context:
    """classes: names, in the order of the logits.  class_counts: training samples of each class.
    image_shape: (height, width, channels).  batch_size: of one optimizer step, over all ranks.
    mean, std: per channel, of pixels in 0..1, with which batches are normalized; empty: each image by its own.
    seed: of the run."""

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


class Clock(NamedTuple):
    """Where training stands. step counts optimizer steps from 0."""

    step: int
    steps_per_epoch: int
    epochs: int

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    @property
    def total(self) -> int:
        return self.steps_per_epoch * self.epochs
