"""Task: everything that differs between single-label and multi-label classification.

Training, evaluation and reports call its methods, and need not distinguish the two.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F

from core.common.statistics import wilson
from core.metrics.classification import (
    BINS,
    THRESHOLDS,
    by_class,
    by_label,
    correct,
    from_confusion,
    from_likelihood,
    from_scores,
    in_top,
    likelihood,
    matched,
    score_table,
)
from core.metrics.confusion import confusion, empty, margins
from core.metrics.names import MetricName

TOP5_FROM = 6  # with five classes or fewer, top-5 is always 1
MOST_NAMED = 2  # maximum number of classes shown for a mixed target


class PerClass(NamedTuple):
    """Metrics of each class.

    counts: int64 [C], number of images.  names: of the metrics.  figures: float64 [C, names], their values.
    """

    counts: np.ndarray
    names: tuple[str, ...]
    figures: np.ndarray


class Task(ABC):
    """Base class of tasks: how logits [N, C] and targets are evaluated.

    exclusive: each image has exactly one class, so that a confusion matrix and a report can be made.  always:
    validation metrics that are measured for any data.  sums: number of sums that `count` returns besides its table.
    """

    exclusive: ClassVar[bool]
    always: ClassVar[tuple[str, ...]]
    sums: ClassVar[int]

    @abstractmethod
    def takes(self, part: object) -> bool:
        """Whether a part of a declaration supports the targets of this task."""

    @abstractmethod
    def right(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Number of correct predictions, float32 scalar. targets: may be mixed, float [N, C]."""

    @abstractmethod
    def empty_table(self, classes: int, device: torch.device) -> torch.Tensor:
        """Zeros int64, to which the tables of `count` are added."""

    @abstractmethod
    def count(self, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (table, sums [self.sums]) of a batch; both can be added over batches and processes."""

    @abstractmethod
    def summary(self, table: torch.Tensor, sums: torch.Tensor) -> dict[str, float]:
        """Metrics of a split. table: of `count`, summed.  sums: of the loss, then those of `count`."""

    @abstractmethod
    def per_class(self, table: torch.Tensor) -> PerClass:
        """Metrics of each class, from the summed table of a split, on the host."""

    @abstractmethod
    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities float [N, C] of logits float [N, C]."""

    @abstractmethod
    def mean_of_views(self, views: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [N, C] of the mean of the probabilities over V views of each image, or over V networks.

        views: logits [V, N, C].  weights: float [V], positive, with the sum 1; None: equal ones.
        """

    @abstractmethod
    def titles(self, targets: torch.Tensor, classes: Sequence[str]) -> list[str]:
        """Captions of N images: their classes or labels."""


@dataclass(frozen=True)
class SingleLabel(Task):
    """Each image has one class: targets int64 [N], probabilities by softmax. The table is the confusion matrix,
    see core/metrics/confusion.py; sums are top-5 hits and those of `likelihood`."""

    exclusive = True
    always = tuple(name for name in get_args(MetricName) if name not in ("val/top5", "val/map"))
    sums = 2 + 3 * BINS

    def takes(self, part: object) -> bool:
        return getattr(part, "single_label", True)

    def right(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return correct(logits, targets)

    def empty_table(self, classes: int, device: torch.device) -> torch.Tensor:
        return empty(classes, device)

    def count(self, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        top5 = in_top(logits, targets, 5) if logits.shape[1] >= TOP5_FROM else torch.zeros((), device=logits.device)
        return confusion(logits, targets), torch.cat([top5[None], likelihood(logits, targets)])

    def summary(self, table: torch.Tensor, sums: torch.Tensor) -> dict[str, float]:
        count, (loss, top5) = int(table.sum()), sums[:2].tolist()
        metrics = {"loss": loss / count} | from_confusion(table) | from_likelihood(sums[2:])
        return metrics | ({"top5": top5 / count} if len(table) >= TOP5_FROM else {})

    def per_class(self, table: torch.Tensor) -> PerClass:
        counts = margins(table)
        bounds = wilson(counts.right.numpy(), counts.true.numpy())
        names = ("precision", "recall", "f1", "recall_low", "recall_high")
        return PerClass(counts.true.numpy(), names, np.column_stack([by_class(counts).numpy(), *bounds]))

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.softmax(dim=1)

    def mean_of_views(self, views: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        logs = views.log_softmax(dim=2)
        return logs.logsumexp(dim=0) - math.log(len(views)) if weights is None else _weighted(logs, weights)

    def titles(self, targets: torch.Tensor, classes: Sequence[str]) -> list[str]:
        """The class name; for mixed targets, float [N, C], the largest classes with their weights."""
        if not targets.is_floating_point():
            return [classes[target] for target in targets.tolist()]
        shares, places = targets.cpu().topk(min(MOST_NAMED, targets.shape[1]), dim=1)
        return [
            " + ".join(f"{classes[place]} {share:.2f}" for share, place in zip(*row, strict=True) if share >= 0.005)
            for row in zip(shares.tolist(), places.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class MultiLabel(Task):
    """Each image has any number of labels: targets float [N, C] of 0 and 1, each label's probability by sigmoid. The
    table is that of `score_table`, int64 [2, C, THRESHOLDS]; the only sum is the number of exact matches."""

    exclusive = False
    always = ("val/accuracy", "val/loss", "val/f1", "val/map")
    sums = 1

    def takes(self, part: object) -> bool:
        return getattr(part, "multi_label", True)

    def right(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return matched(logits, targets)

    def empty_table(self, classes: int, device: torch.device) -> torch.Tensor:
        return torch.zeros(2, classes, THRESHOLDS, dtype=torch.int64, device=device)

    def count(self, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return score_table(logits, targets), matched(logits, targets)[None]

    def summary(self, table: torch.Tensor, sums: torch.Tensor) -> dict[str, float]:
        count, (loss, right) = int(table[:, 0].sum()), sums.tolist()
        return {"loss": loss / count, "accuracy": right / count} | from_scores(table)

    def per_class(self, table: torch.Tensor) -> PerClass:
        names = ("average_precision", "precision", "recall", "f1")
        return PerClass(table[1].sum(dim=1).numpy(), names, by_label(table).numpy())

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.sigmoid()

    def mean_of_views(self, views: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        weights = views.new_ones(len(views)) if weights is None else weights
        return _weighted(F.logsigmoid(views), weights) - _weighted(F.logsigmoid(-views), weights)

    def titles(self, targets: torch.Tensor, classes: Sequence[str]) -> list[str]:
        """Names of all labels, or a dash if there are none."""
        return [
            " + ".join(name for name, has in zip(classes, row, strict=True) if has) or "-" for row in targets.tolist()
        ]


def _weighted(logs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Logarithms [N, C] of the weighted sum of the numbers whose logarithms are [V, N, C]."""
    return (logs + weights.log()[:, None, None]).logsumexp(dim=0)


SINGLE_LABEL, MULTI_LABEL = SingleLabel(), MultiLabel()


def task_of(multi_label: bool) -> Task:
    """The task of a data set or a record, given its `multi_label` flag."""
    return MULTI_LABEL if multi_label else SINGLE_LABEL
