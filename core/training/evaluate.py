"""Evaluation of a model over the batches of a split."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from core.common.tensors import full
from core.loading.batches import Batch, Batches
from core.methods import LossFunction
from core.metrics.task import Task
from core.models.inspection import evaluation_mode
from core.training import distributed


class Evaluation(NamedTuple):
    """Result of an evaluation.

    metrics: loss; accuracy, balanced_accuracy, precision, recall, f1, ece, and top5 with six or more classes, in 0..1;
    nll in nats.  table: on the host, the confusion matrix, see core/metrics/confusion.py.

    Multi-label: metrics are loss, accuracy (exact match), map and f1; the table is that of `score_table`,
    int64 [2, C, THRESHOLDS].
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
    task: Task,
    see: Callable[[Batch, torch.Tensor], None] | None = None,
) -> Evaluation:
    """Evaluate a model over every sample of `batches`, each counted once over all processes. Restores the training
    modes of model and loss. see: called with each batch, before normalization, and its logits. Raises ValueError if the
    split is empty."""
    device = next(model.parameters()).device
    table = task.empty_table(classes, device)
    sums = torch.zeros(1 + task.sums, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    with evaluation_mode(model, loss):
        for batch in batches.epoch(0):
            images, targets = normalize(batch)[:2]
            logits = full(model(images))
            if see:
                see(batch, logits)
            counted, added = task.count(logits, targets)
            table = table + counted if table.is_sparse else table.add_(counted)
            sums[0] += loss(logits, targets).sum()
            sums[1:] += added
    table, sums = distributed.total(table).cpu(), distributed.total(sums).cpu()
    if not table.sum():
        raise ValueError("the split to evaluate is empty")
    return Evaluation(task.summary(table, sums), table)
