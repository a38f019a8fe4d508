"""Batches: the samples at (epoch, step) for each rank, as a pure function of the seed.

Images are either resident on the device, read in this process, or read by loader workers. All three give the same
batches; `feed` chooses one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from core import randomness as K
from core.loading.images import Pixels


class ImageFunction(Protocol):
    """Transform of one image on the host; core/augment/pipeline.py builds it from the declared steps."""

    def read(self, pixels: np.ndarray | Pixels, row: int, key: int) -> np.ndarray:
        """Read and transform image `row` of pixels uint8 [M, H, W, C], with the key of its sample -> uint8 [H, W,
        C]."""


class Batch(NamedTuple):
    """A batch of samples.

    images: uint8 [N, H, W, C] from the loader, float [N, C, H, W] once normalized.  targets: int64 [N], or float [N, C]
    if mixed or multi-label.  keys: int64 [N], random keys of the samples.  index: int64 [N], positions in the split.
    """

    images: torch.Tensor
    targets: torch.Tensor
    keys: torch.Tensor
    index: torch.Tensor  # type: ignore[assignment]  # shadows tuple.index


@dataclass(frozen=True)
class Plan:
    """Assignment of samples to batches.

    A shuffled plan (training) drops the last incomplete batch of an epoch. An ordered one (validation, test) keeps it
    and assigns every sample to exactly one rank.

    count: number of samples.  size: batch size over all ranks.  drawn: (seed, epoch) -> positions int64 [count],
    possibly repeated, instead of a permutation.  repeats: number of passes over the samples in a shuffled epoch, each
    in a different order.  views: rows of each image in a batch, one after the other, each with a key of its own.
    parts: number of equal parts of a batch that are computed apart, a multiple of ranks; 0: one for each rank.
    in_turn: an ordered plan whose batches are not divided: they are given to the ranks in turn.
    divided: the network is divided among processes, so that each takes part in every batch of an ordered plan; where
    it has no share of one, the first image takes its place, and is not counted.  idle: another process has the same
    batches, and counts them.
    """

    count: int
    size: int
    seed: int = 0
    shuffled: bool = True
    rank: int = 0
    ranks: int = 1
    drawn: Callable[[int, int], np.ndarray] | None = None
    repeats: int = 1
    views: int = 1
    parts: int = 0
    in_turn: bool = False
    divided: bool = False
    idle: bool = False

    def __post_init__(self) -> None:
        if self.shuffled and self.size > self.count:
            raise ValueError(f"batch_size: {self.size} is more than the {self.count} training images; reduce it")
        parts = self.parts or self.ranks
        if not self.in_turn and (self.size % parts or (parts > 1 and self.size // parts % 2)):
            each = "process" if parts == self.ranks else "virtual shard"
            raise ValueError(f"batch_size: {self.size} cannot be divided into {parts} even shares, one per {each}")

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self.repeats * self.count // self.size if self.shuffled else -(-self.count // self.size)

    @property
    def share(self) -> int:
        """Number of images of a full batch in one of its parts."""
        return self.size // (self.parts or self.ranks)

    def order(self, epoch: int) -> np.ndarray:
        """Positions in the split in the order of an epoch, int64 [repeats * count * views]."""
        order = self._images(epoch)
        return order if self.views == 1 else np.repeat(order, self.views)

    def _images(self, epoch: int) -> np.ndarray:
        if self.drawn is not None:
            return self.drawn(self.seed, epoch)
        if not self.shuffled:
            return np.arange(self.count)
        first = epoch * self.repeats
        return np.concatenate([K.permutation(self.seed, first + i, self.count) for i in range(self.repeats)])

    def keys(self, epoch: int, order: np.ndarray) -> np.ndarray:
        """The key of each sample of an order, int64 [len(order)]; a repeated sample has a different key each time."""
        keys = K.sample_keys(self.seed, epoch, order)
        return keys if self.drawn is None and self.views == 1 else K.distinct(keys, order)

    def spans(self, start: int = 0) -> Iterator[tuple[int, int]]:
        """Yield (first, last + 1) positions in the order for this rank's share of each batch, starting at step `start`.
        Empty shares are skipped, unless the network is divided.

        A share is contiguous and, in training, of even size, so that both samples of a mixed pair are on one rank.
        """
        end = self.repeats * self.count
        if self.in_turn:
            for first in range((start + self.rank) * self.size, end, self.ranks * self.size):
                yield self.views * first, self.views * min(first + self.size, end)
            return
        for step in range(start, len(self)):
            own, share = self._own(step)
            if own < end:
                yield self.views * own, self.views * min(own + share, end)
            elif self.divided:
                yield 0, self.views

    def counts(self, step: int) -> bool:
        """Whether this rank has a share of the batch of a step, which no other counts."""
        return self.in_turn or (not self.idle and self._own(step)[0] < self.repeats * self.count)

    def _own(self, step: int) -> tuple[int, int]:
        """(first position of this rank's share of a batch, number of images of a share)."""
        first = step * self.size
        share = -(-min(self.size, self.repeats * self.count - first) // self.ranks)
        return first + self.rank * share, share


class Batches(Protocol):
    """Interface of the batches that `fit` and `evaluate` iterate over."""

    @property
    def plan(self) -> Plan: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, starting at step `start`; earlier ones are not read."""
        ...
