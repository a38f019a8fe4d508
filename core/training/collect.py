"""Collection of the answers of an evaluation, over its batches and processes."""

from __future__ import annotations

import numpy as np
import torch

from core.loading.batches import Batch
from core.metrics.answers import Answers, bounded, identity, joined
from core.training import distributed


class Collector:
    """Called with each batch of an evaluation and its logits; `answers` returns those of all batches and processes."""

    def __init__(self, split: str, classes: tuple[str, ...]):
        self.split, self.classes = split, classes
        self._places: list[np.ndarray] = []
        self._parts: list[Answers] = []

    def __call__(self, batch: Batch, logits: torch.Tensor) -> None:
        """batch: before normalization.  logits: float [N, C]."""
        ids = np.array([identity(image) for image in batch.images.cpu().numpy()])
        part = bounded(self.split, self.classes, ids, batch.targets.cpu().numpy(), logits.float().cpu().numpy())
        self._places.append(batch.index.cpu().numpy())
        self._parts.append(part)

    def answers(self) -> Answers:
        """The answers in the order of the split, in every process."""
        each = distributed.gathered((self._places, self._parts))
        places = np.concatenate([place for own, _ in each for place in own])
        return joined([part for _, parts in each for part in parts]).in_order(np.argsort(places))
