"""(model, batches) -> metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from core.common.tensors import full
from core.loading.batches import Batch, Batches
from core.methods import LossFunction
from core.metrics.classification import (
    BINS,
    THRESHOLDS,
    confusion,
    from_confusion,
    from_likelihood,
    from_scores,
    in_top,
    likelihood,
    matched,
    score_table,
)
from core.training import distributed

TOP5_FROM = 6  # with five classes or fewer, top-5 is always 1


class Evaluation(NamedTuple):
    """metrics: loss; accuracy, balanced_accuracy, precision, recall, f1, ece, and top5 from six classes on, in 0..1;
    nll in nats.  table: on the host, int64 [C, C], the confusion matrix, rows true classes.

    Of several labels at a time: loss, accuracy (of whole sets of labels), map and f1; the table is that of
    `score_table`, int64 [2, C, THRESHOLDS].
    """

    metrics: dict[str, float]
    table: torch.Tensor


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loss: LossFunction,
    batches: Batches,
    normalize: Callable[[Batch], Batch],
    classes: int,
    multi_label: bool = False,
) -> Evaluation:
    """Metrics of a model over every sample of `batches`, of all processes, each counted once. Leaves model and loss in
    their modes."""
    modes = [(module, module.training) for module in (model, loss) if isinstance(module, nn.Module)]
    for module, _ in modes:
        module.eval()
    count = _count_labels if multi_label else _count_classes
    device = next(model.parameters()).device
    shape = (2, classes, THRESHOLDS) if multi_label else (classes, classes)
    table = torch.zeros(shape, dtype=torch.int64, device=device)
    sums = torch.zeros(3 + 3 * BINS, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    for batch in batches.epoch(0):
        images, targets = normalize(batch)[:2]
        logits = full(model(images))
        counted, added = count(logits, targets)
        table += counted
        sums[0] += loss(logits, targets).sum()
        sums[1 : 1 + len(added)] += added
    for module, training in modes:
        module.train(training)
    table, sums = distributed.total(table).cpu(), distributed.total(sums).cpu()
    if not table.sum():
        raise ValueError("there is nothing to evaluate: the split is empty")
    return Evaluation((summary_of_labels if multi_label else summary)(table, sums), table)


def _count_classes(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(confusion; top-5 hits, then the sums of `likelihood`)"""
    top5 = in_top(logits, targets, 5) if logits.shape[1] >= TOP5_FROM else torch.zeros((), device=logits.device)
    return confusion(logits, targets), torch.cat([top5[None], likelihood(logits, targets)])


def _count_labels(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(score_table; exact matches)"""
    return score_table(logits, targets), matched(logits, targets)[None]


def summary(table: torch.Tensor, sums: torch.Tensor) -> dict[str, float]:
    """The metrics of a whole split.

    table: confusion, int64 [C, C].  sums: of the loss, of top-5 hits, then those of `likelihood`.
    """
    count, (loss, top5) = int(table.sum()), sums[:2].tolist()
    metrics = {"loss": loss / count} | from_confusion(table) | from_likelihood(sums[2:])
    return metrics | ({"top5": top5 / count} if len(table) >= TOP5_FROM else {})


def summary_of_labels(table: torch.Tensor, sums: torch.Tensor) -> dict[str, float]:
    """The metrics of a whole split whose images have several labels.

    table: of `score_table`, int64 [2, C, THRESHOLDS].  sums: of the loss, of exact matches.
    """
    count, (loss, right) = int(table[:, 0].sum()), sums[:2].tolist()
    return {"loss": loss / count, "accuracy": right / count} | from_scores(table)
