"""Task: everything that differs between single-label and multi-label classification, and several tasks at a time.

Training, evaluation and reports call its methods, and need not distinguish them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F

from core.common.blocks import Blocks, spans
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
from core.metrics.names import EXACT_MATCH, MetricName

TOP5_FROM = 6  # with five classes or fewer, top-5 is always 1
MOST_NAMED = 2  # maximum number of classes shown for a mixed target


class PerClass(NamedTuple):
    """Metrics of each class.

    counts: int64 [C], number of images.  names: of the metrics.  figures: float64 [C, names], their values.
    """

    counts: np.ndarray
    names: tuple[str, ...]
    figures: np.ndarray


class Confusion(NamedTuple):
    """A confusion matrix, see core/metrics/confusion.py. task: its name; "" for a single task.  columns: of its
    classes."""

    task: str
    columns: slice
    table: torch.Tensor


class Task(ABC):
    """Base class of tasks: how logits [N, C] and targets are evaluated.

    exclusive: each image has exactly one class, so that a report can be made.  kind: of its images, in words.
    """

    exclusive: ClassVar[bool]
    kind: ClassVar[str]

    @property
    @abstractmethod
    def always(self) -> tuple[str, ...]:
        """Validation metrics that are measured for any data."""

    @property
    @abstractmethod
    def sums(self) -> int:
        """Number of sums that `count` returns besides its table."""

    def inside(self, name: str) -> Task:
        """The task that the part of this dotted name in a declaration has to support."""
        return self

    def confusions(self, table: torch.Tensor) -> list[Confusion]:
        """The confusion matrices in the summed table of a split."""
        return []

    @abstractmethod
    def takes(self, part: object) -> bool:
        """Whether a part of a declaration supports the targets of this task."""

    def refusal(self, part: object) -> str:
        """Why a part of a declaration that does not support these targets is refused, and what to do."""
        taken = "multi-label" if self.exclusive else "single-label"
        taken = "images of several tasks" if getattr(part, "several_tasks", False) else f"{taken} images"
        advice = getattr(part, "instead", "leave it out")
        return f"{type(part).__name__} supports only {taken}, and these are {self.kind}; {advice}"

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
    kind = "single-label"
    always = tuple(name for name in get_args(MetricName) if name not in ("val/top5", "val/map"))
    sums = 2 + 3 * BINS

    def confusions(self, table: torch.Tensor) -> list[Confusion]:
        return [Confusion("", slice(None), table)]

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
    kind = "multi-label"
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
_EACH = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "nll", "ece")  # metrics of each task


@dataclass(frozen=True)
class SeveralTasks(Task):
    """Each image has a class of each of several tasks, or none of some: targets float [N, C], of which the block of
    columns of a task is one-hot, or zero for an image without a label of it. Probabilities are by softmax in a block.

    Each task is evaluated as a single-label one, on the images that have a label of it; the name of a metric is that of
    the single-label one with the name of the task: accuracy_color. The table has the confusion matrices one after the
    other, int64 [sum of C_t^2]; sums are the numbers of images and of exact matches, then those of each task.
    """

    tasks: Blocks

    exclusive = False
    kind = "of several tasks"

    @property
    def always(self) -> tuple[str, ...]:
        each = (f"val/{name}_{task}" for task, _ in self.tasks for name in _EACH)
        return ("val/accuracy", "val/loss", f"val/{EXACT_MATCH}", *each)

    @property
    def sums(self) -> int:
        return 2 + len(self.tasks) * SINGLE_LABEL.sums

    def inside(self, name: str) -> Task:
        return SINGLE_LABEL if name.startswith("loss.") else self

    def takes(self, part: object) -> bool:
        return getattr(part, "several_tasks", getattr(part, "multi_label", True))

    def refusal(self, part: object) -> str:
        advice = getattr(part, "for_tasks", getattr(part, "instead", "leave it out"))
        return f"{type(part).__name__} supports a single task, and these images have several; {advice}"

    def right(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Number of images times the mean over the tasks of the accuracy on the images that have a label."""
        hits, has = self._hits(logits, targets)
        known = has.sum(dim=0, dtype=torch.float32)
        share = (hits & has).sum(dim=0, dtype=torch.float32) / known.clamp(min=1)
        return len(logits) * share.sum() / (known > 0).sum().clamp(min=1)

    def _hits(self, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(whether the class of each task is predicted, whether it is known), bool [N, tasks] each."""
        blocks = [(logits[:, columns], targets[:, columns]) for _, columns in spans(self.tasks)]
        hits = torch.stack([scores.argmax(dim=1) == own.argmax(dim=1) for scores, own in blocks], dim=1)
        return hits, torch.stack([own.sum(dim=1) > 0 for _, own in blocks], dim=1)

    def empty_table(self, classes: int, device: torch.device) -> torch.Tensor:
        return torch.zeros(sum(own**2 for _, own in self.tasks), dtype=torch.int64, device=device)

    def count(self, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hits, has = self._hits(logits, targets)
        images = torch.full((), len(logits), device=logits.device)
        tables, sums = [], [torch.stack([images, (hits | ~has).all(dim=1).sum()])]
        for known, (_, columns) in zip(has.T, spans(self.tasks), strict=True):
            table, added = SINGLE_LABEL.count(logits[known, columns], targets[known, columns].argmax(dim=1))
            tables.append(table.flatten())
            sums.append(added)
        return torch.cat(tables), torch.cat(sums)

    def summary(self, table: torch.Tensor, sums: torch.Tensor) -> dict[str, float]:
        (loss, images, exact), each = sums[:3].tolist(), sums[3:].split(SINGLE_LABEL.sums)
        metrics: dict[str, float] = {}
        accuracies = []
        for (task, _, own), added in zip(self.confusions(table), each, strict=True):
            names = (*_EACH, "top5") if len(own) >= TOP5_FROM else _EACH
            found = dict.fromkeys(names, math.nan)
            if own.sum():
                found = SINGLE_LABEL.summary(own, torch.cat([sums[:1], added]))
                accuracies.append(found["accuracy"])
            metrics |= {f"{name}_{task}": found[name] for name in names}
        mean = sum(accuracies) / len(accuracies) if accuracies else math.nan
        return {"loss": loss / images, "accuracy": mean, EXACT_MATCH: exact / images} | metrics

    def confusions(self, table: torch.Tensor) -> list[Confusion]:
        flat = table.split([own**2 for _, own in self.tasks])
        return [
            Confusion(task, columns, own.view(columns.stop - columns.start, -1))
            for (task, columns), own in zip(spans(self.tasks), flat, strict=True)
        ]

    def per_class(self, table: torch.Tensor) -> PerClass:
        each = [SINGLE_LABEL.per_class(own) for _, _, own in self.confusions(table)]
        counts, figures = (np.concatenate([getattr(one, part) for one in each]) for part in ("counts", "figures"))
        return PerClass(counts, each[0].names, figures)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.cat([logits[:, columns].softmax(dim=1) for _, columns in spans(self.tasks)], dim=1)

    def mean_of_views(self, views: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        each = (views[:, :, columns] for _, columns in spans(self.tasks))
        return torch.cat([SINGLE_LABEL.mean_of_views(own, weights) for own in each], dim=1)

    def titles(self, targets: torch.Tensor, classes: Sequence[str]) -> list[str]:
        """The classes of all tasks that an image has a label of."""
        return MULTI_LABEL.titles(targets, classes)


def task_of(multi_label: bool, tasks: Sequence[Sequence[Any]] = ()) -> Task:
    """The task of a data set or a record, given its `multi_label` flag and its `tasks`, which may be lists."""
    if tasks:
        return SeveralTasks(tuple((str(name), int(classes)) for name, classes in tasks))
    return MULTI_LABEL if multi_label else SINGLE_LABEL
