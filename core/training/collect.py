"""Collection of the answers of an evaluation, over its batches and processes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from core.common.blocks import Blocks
from core.loading.batches import Batch
from core.metrics.answers import Answers, bounded, identity, joined
from core.metrics.base import Metric, measured
from core.training import distributed


class Collector:
    """Called with each batch of an evaluation and its logits; `answers` returns those of all batches and processes, and
    the next evaluation starts again. Images are hashed in the first evaluation only.

    metrics: computed from the answers.  tasks: the blocks of several tasks.
    """

    def __init__(self, split: str, classes: tuple[str, ...], metrics: Sequence[Metric] = (), tasks: Blocks = ()):
        self.split, self.classes, self.metrics, self.tasks = split, classes, metrics, tasks
        self._ids: dict[int, str] = {}  # by position
        self._places: list[np.ndarray] = []
        self._parts: list[Answers] = []

    def __call__(self, batch: Batch, logits: torch.Tensor) -> None:
        """batch: before normalization.  logits: float [N, C]."""
        ids = self.identify(batch)
        targets, scores = batch.targets.cpu().numpy(), logits.float().cpu().numpy()
        part = bounded(self.split, self.classes, ids, targets, scores, self.tasks)
        self._places.append(batch.index.cpu().numpy())
        self._parts.append(part)

    def identify(self, batch: Batch) -> np.ndarray:
        """The ids of the images, str [N]. batch: of uint8 images, unless their ids are known from an earlier one."""
        places = batch.index.tolist()
        if not self._ids.keys() >= set(places):
            self._ids |= zip(places, map(identity, batch.images.cpu().numpy()), strict=True)
        return np.array([self._ids[place] for place in places])

    def measured(self, answers: Answers) -> dict[str, float]:
        """{name: value} of the metrics that are defined, the same in every process."""
        return distributed.from_first(measured(self.metrics, answers))

    def answers(self) -> Answers:
        """The answers in the order of the split, in every process."""
        each = distributed.gathered((self._places, self._parts))
        self._places, self._parts = [], []
        places = np.concatenate([place for own, _ in each for place in own])
        return joined([part for _, parts in each for part in parts]).in_order(np.argsort(places))
