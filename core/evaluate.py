"""(model, batches) -> metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from core import distributed
from core.batches import Batch, Batches
from core.losses import full
from core.methods import LossFunction
from core.metrics import confusion, in_top

TOP5_FROM = 6  # with five classes or fewer, top-5 is always 1


class Evaluation(NamedTuple):
    """metrics: loss, accuracy, top5 from six classes on, each in natural units (accuracies in 0..1).
    confusion: int64 [C, C] on the host, rows true classes."""

    metrics: dict[str, float]
    confusion: torch.Tensor


@torch.inference_mode()
def evaluate(
    model: nn.Module, loss: LossFunction, batches: Batches, normalise: Callable[[Batch], Batch], classes: int
) -> Evaluation:
    """Metrics of a model over every sample of `batches`, of all processes, each counted once. Leaves model and loss in
    their modes."""
    modes = [(module, module.training) for module in (model, loss) if isinstance(module, nn.Module)]
    for module, _ in modes:
        module.eval()
    device = next(model.parameters()).device
    table = torch.zeros(classes, classes, dtype=torch.int64, device=device)
    sums = torch.zeros(2, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    for batch in batches.epoch(0):
        images, targets = normalise(batch)[:2]
        logits = full(model(images))
        table += confusion(logits, targets)
        top5 = in_top(logits, targets, 5) if classes >= TOP5_FROM else torch.zeros((), device=logits.device)
        sums += torch.stack([loss(logits, targets).sum(), top5])
    for module, training in modes:
        module.train(training)
    table, (loss_sum, top5_sum) = distributed.total(table).cpu(), distributed.total(sums).tolist()
    count = int(table.sum())
    if not count:
        raise ValueError("there is nothing to evaluate: the split is empty")
    metrics = {"loss": loss_sum / count, "accuracy": int(table.trace()) / count}
    return Evaluation(metrics | ({"top5": top5_sum / count} if classes >= TOP5_FROM else {}), table)
