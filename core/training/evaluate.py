"""Evaluation of a model over the batches of a split."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import torch
from torch import nn

from core.common.memory import in_parts
from core.common.tensors import full
from core.loading.batches import Batch, Batches
from core.methods import LossFunction
from core.metrics.answers import Answers
from core.metrics.task import Task
from core.models.inspection import evaluation_mode
from core.training import distributed
from core.training.collect import Collector


class Evaluation(NamedTuple):
    """Result of an evaluation.

    metrics: loss; accuracy, balanced_accuracy, precision, recall, f1, ece, and top5 with six or more classes, in 0..1;
    nll in nats; then loss_NAME of each loss of a Sum, and those of the collector.  table: on the host, the confusion
    matrix, see core/metrics/confusion.py.  answers: collected, in the order of the split.

    Multi-label: metrics are loss, accuracy (exact match), map and f1; the table is that of `score_table`,
    int64 [2, C, THRESHOLDS].
    """

    metrics: dict[str, float]
    table: torch.Tensor
    answers: Answers | None = None


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loss: LossFunction,
    batches: Batches,
    normalize: Callable[[Batch], Batch],
    classes: int,
    task: Task,
    collector: Collector | None = None,
) -> Evaluation:
    """Evaluate a model over every sample of `batches`, each counted once over all processes. Restores the training
    modes of model and loss. collector: collects the answers and computes its metrics. If memory runs out, batches are
    divided; see core/common/memory.py. Raises ValueError if the split is empty."""
    device = next(model.parameters()).device
    table = task.empty_table(classes, device)
    terms = getattr(loss, "terms", {})  # of a Sum
    own = 1 + task.sums
    kind = torch.float32 if device.type == "mps" else torch.float64
    each = [torch.zeros(own + len(terms), dtype=kind, device=device)]  # of each batch
    network = model if batches.plan.divided else in_parts(model)  # all processes make the same passes
    with evaluation_mode(model, loss):
        for step, batch in enumerate(batches.epoch(0)):
            images, targets = normalize(batch)[:2]
            logits = full(network(images))
            if not batches.plan.counts(step):
                continue
            if collector:
                collector(batch, logits)
            counted, added = task.count(logits, targets)
            table = table + counted if table.is_sparse else table.add_(counted)
            sums = torch.zeros_like(each[0])
            sums[0] = loss(logits, targets).sum()
            sums[1:own] = added
            for place, term in enumerate(terms.values(), own):
                sums[place] = term(logits, targets).sum()
            each.append(sums)
    table, sums = distributed.total(table).cpu(), _total(each, batches.plan.in_turn).cpu()
    if not table.sum():
        raise ValueError("the split to evaluate is empty")
    metrics = task.summary(table, sums[:own])
    metrics |= dict(zip(terms, (sums[own:] / batches.plan.count).tolist(), strict=True))
    if collector is None:
        return Evaluation(metrics, table)
    answers = collector.answers()
    return Evaluation(metrics | collector.measured(answers), table, answers)


def _total(each: list[torch.Tensor], in_turn: bool) -> torch.Tensor:
    """Sum over the batches of all processes. in_turn: batches were given to processes in turn; they are added up in
    their order, so that the number of processes does not matter."""
    if in_turn:
        return reduce(torch.add, distributed.in_turn(each))
    return distributed.total(reduce(torch.add, each))
