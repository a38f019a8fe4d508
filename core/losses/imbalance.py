"""Losses for imbalanced data, computed from the class counts of the training set."""

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
    """Logit-adjusted cross-entropy: cross-entropy of logits + tau * log(class prior) (Menon et al. 2021, equation 10).

    logits [N, C]; targets int64 [N] or float [N, C]; returns [N]. Predictions use the unadjusted logits, which assumes
    equal class frequencies.
    """

    tau: float = Field(1.0, ge=0, description="scale of the log prior added to the logits; 0 is cross-entropy")

    def build(self, context: Context) -> nn.Module:
        known = counts(context)
        return ByClass(self.values, self.tau * (known / known.sum()).log())

    def values(self, logits: torch.Tensor, targets: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Losses [N] of logits [N, C] and targets.  shift: added to the logits of each class, float [C]."""
        return F.cross_entropy(full(logits) + shift, targets, reduction="none")


class ClassBalanced(BuiltLoss):
    """Class-balanced loss (Cui et al. 2019, section 4): a loss weighted by the inverse effective number of samples.

    The weight of a class with n training samples is (1 - beta) / (1 - beta^n); as in the paper, the weights are scaled
    to sum to the number of classes. logits [N, C]; targets int64 [N], or float [N, C], for which it is the expected
    weight; returns [N].
    """

    beta: float = Field(
        0.999, ge=0, lt=1, description="0: equal class weights; near 1: weights inversely proportional to class counts"
    )
    loss: Loss = Field(CrossEntropy(), description="loss that is weighted")

    def check(self) -> None:
        if not self.loss.per_example:
            raise ValueError(
                "loss: it gives the mean over a batch, and class weights need the loss of each example; if the module "
                'takes reduction="none", add it to loss.arguments'
            )

    def build(self, context: Context) -> nn.Module:
        return _Balanced(self.loss.build(context), self.weights(context))

    def weights(self, context: Context) -> torch.Tensor:
        """Class weights, float [C], with mean 1."""
        if not self.beta:
            return torch.ones(len(context.classes))
        weights = -1 / torch.expm1(counts(context) * math.log(self.beta))  # expm1 is accurate for beta near 1
        return weights * len(weights) / weights.sum()

    def network(self, model: Model, context: Context) -> nn.Module:
        return self.loss.network(model, context)


class _Balanced(nn.Module):
    """A loss times class weights, float [C]. If the loss is a module, it becomes a submodule."""

    weights: torch.Tensor

    def __init__(self, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], weights: torch.Tensor):
        super().__init__()
        self.loss = loss
        self.register_buffer("weights", weights.float(), persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.loss(logits, targets) * weights_of(targets, self.weights)
