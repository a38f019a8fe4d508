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
from core.metrics import BINS, confusion, from_confusion, from_likelihood, in_top, likelihood

TOP5_FROM = 6  # with five classes or fewer, top-5 is always 1


class Evaluation(NamedTuple):
    """metrics: loss; accuracy, balanced_accuracy, precision, recall, f1, ece, and top5 from six classes on, in 0..1;
    nll in nats.  confusion: int64 [C, C] on the host, rows true classes."""

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
    sums = torch.zeros(3 + 3 * BINS, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    for batch in batches.epoch(0):
        images, targets = normalise(batch)[:2]
        logits = full(model(images))
        table += confusion(logits, targets)
        top5 = in_top(logits, targets, 5) if classes >= TOP5_FROM else torch.zeros((), device=logits.device)
        sums[:2] += torch.stack([loss(logits, targets).sum(), top5])
        sums[2:] += likelihood(logits, targets)
    for module, training in modes:
        module.train(training)
    table, sums = distributed.total(table).cpu(), distributed.total(sums).cpu()
    if not table.sum():
        raise ValueError("there is nothing to evaluate: the split is empty")
    return Evaluation(summary(table, sums, classes), table)


def summary(table: torch.Tensor, sums: torch.Tensor, classes: int) -> dict[str, float]:
    """The metrics of a whole split.

    table: confusion, int64 [C, C].  sums: of the loss, of top-5 hits, then those of `likelihood`.
    """
    count, (loss, top5) = int(table.sum()), sums[:2].tolist()
    metrics = {"loss": loss / count} | from_confusion(table) | from_likelihood(sums[2:])
    return metrics | ({"top5": top5 / count} if classes >= TOP5_FROM else {})
