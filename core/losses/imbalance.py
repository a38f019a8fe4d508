"""Losses for classes of unequal size: what they know of the data are the training set's class counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from core.common.tensors import full
from core.losses.base import BuiltLoss, ByClass, Loss, counts, weights_of
from core.losses.cross_entropy import CrossEntropy

if TYPE_CHECKING:
    from core.context import Context
    from core.models import Model


class LogitAdjusted(BuiltLoss):
    """Cross-entropy of logits + tau log(class prior) (Menon et al. 2021, equation 10).

    logits [N, C]; targets int64 [N] or float [N, C]; gives [N]. Predictions are made from the plain logits: so they
    are those of a balanced world.
    """

    tau: float = Field(1.0, ge=0, description="strength of the adjustment; 0 is cross-entropy")

    def build(self, context: Context) -> nn.Module:
        known = counts(context)
        return ByClass(self.values, self.tau * (known / known.sum()).log())

    def values(self, logits: torch.Tensor, targets: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """[N], of logits [N, C], targets, and what is added to the logits of each class, float [C]."""
        return F.cross_entropy(full(logits) + shift, targets, reduction="none")


class ClassBalanced(BuiltLoss):
    """A loss times (1 - beta) / (1 - beta^n), n the class's count: one over the effective number of its samples.

    Cui et al. 2019, section 4; as there, the weights add up to the number of classes. logits [N, C]; targets int64
    [N] or float [N, C], whose weight is the mean under it; gives [N].
    """

    beta: float = Field(0.999, ge=0, lt=1, description="0 weighs all alike; near 1, by the inverse of the count")
    loss: Loss = Field(CrossEntropy(), description="what is weighted")

    def build(self, context: Context) -> nn.Module:
        return _Balanced(self.loss.build(context), self.weights(context))

    def weights(self, context: Context) -> torch.Tensor:
        """float [C], of mean 1."""
        if not self.beta:
            return torch.ones(len(context.classes))
        weights = -1 / torch.expm1(counts(context) * math.log(self.beta))  # expm1: exact also for beta near 1
        return weights * len(weights) / weights.sum()

    def network(self, model: Model, context: Context) -> nn.Module:
        return self.loss.network(model, context)


class _Balanced(nn.Module):
    """A loss, itself perhaps a module, which is then a part of this one, times weights float [C]."""

    weights: torch.Tensor

    def __init__(self, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], weights: torch.Tensor):
        super().__init__()
        self.loss = loss
        self.register_buffer("weights", weights.float(), persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.loss(logits, targets) * weights_of(targets, self.weights)
