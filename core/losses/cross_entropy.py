"""Cross-entropy and losses derived from it: negative log-likelihood, focal loss, PolyLoss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator

from core.common.tensors import full
from core.losses.base import (
    ByClass,
    Loss,
    Named,
    counts,
    expected,
    in_order,
    number_per_class,
    probabilities,
    weights_of,
)

if TYPE_CHECKING:
    from core.context import Context


class CrossEntropy(Loss):
    """Cross-entropy, optionally with label smoothing (Szegedy et al. 2016, section 7) and class weights.

    logits [N, C]; targets int64 [N] or float [N, C]; returns [N]. The loss of an example, smoothing included, is
    multiplied by the weight of its true class; for targets float [N, C] it is the expectation of this. "balanced" is
    n_samples / (n_classes * count of the class), as in scikit-learn, with a mean of 1 over the training set (King and
    Zeng 2001).

    torch.nn.CrossEntropyLoss differs twice. It multiplies each term by the weight of its own class, so that smoothing
    is weighted too, and with balanced weights the rarest class is predicted for want of other evidence. And it divides
    the mean over a batch by the weights of its examples.
    """

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="amount of label smoothing; 0: none")
    weights: tuple[float, ...] | Named | Literal["balanced"] | None = Field(
        None,
        description="class weights in the order of the classes, e.g. 1,1,2, or by name, e.g. cat=2,dog=1 (others 1); "
        "balanced: inversely proportional to class frequencies; none: all 1",
    )

    @field_validator("weights", mode="plain")
    @classmethod
    def _weights_are_one_number_a_class(cls, value: Any) -> Any:
        return number_per_class(value)

    def build(self, context: Context) -> Any:
        if self.weights is None:
            return self
        if self.weights == "balanced":
            return ByClass(self.values, context.train_size / (len(context.classes) * counts(context)))
        return ByClass(self.values, in_order(self.weights, context.classes, "loss.weights"))

    def values(self, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Losses [N] of logits [N, C] and targets, with class weights, float [C]."""
        logits, smoothing = full(logits), self.label_smoothing
        if isinstance(smoothing, torch.Tensor):  # of several runs, stacked by core/training/stack.py
            labels = targets if targets.is_floating_point() else probabilities(targets, logits)
            return F.cross_entropy(logits, labels * (1 - smoothing) + smoothing / labels.shape[1], reduction="none")
        if weights is None:
            return F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
        weights = weights.to(logits.dtype)
        losses = F.cross_entropy(logits, targets, weight=weights, reduction="none")
        if not smoothing:
            return losses
        uniform = -logits.log_softmax(dim=1).mean(dim=1)
        return (1 - smoothing) * losses + smoothing * weights_of(targets, weights) * uniform

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.weights is not None:
            raise TypeError("CrossEntropy with weights: call the module that build(context) returns")
        return self.values(logits, targets)


class NegativeLogLikelihood(Loss):
    """Negative log-likelihood, for a network whose last layer is log_softmax (Bishop 2006, equation 4.108).

    logits [N, C] must be log-probabilities, or the loss is unbounded below; targets int64 [N] or float [N, C]; returns
    [N].
    """

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return -expected(full(logits), targets)


class FocalLoss(Loss):
    """Focal loss, (1 - p_t)^gamma times cross-entropy (Lin et al. 2017, equation 4).

    logits [N, C]; targets int64 [N], or float [N, C], for which it is the expected loss; returns [N].
    """

    gamma: float = Field(
        2.0, ge=0, description="focusing parameter; larger values down-weight easy examples, 0 is cross-entropy"
    )

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        log_p = full(logits).log_softmax(dim=1)
        # clamped, because a power below 1 has an infinite gradient at 0
        missing = (-log_p.expm1()).clamp(min=torch.finfo(log_p.dtype).tiny)
        return expected(-(missing**self.gamma) * log_p, targets)


class PolyLoss(Loss):
    """Poly-1 loss, cross-entropy + epsilon * (1 - p_t) (Leng et al. 2022).

    logits [N, C]; targets int64 [N], or float [N, C], for which it is the expected loss; returns [N].
    """

    epsilon: float = Field(2.0, ge=-1, description="coefficient of the term (1 - p_t) added to cross-entropy")

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        log_p = full(logits).log_softmax(dim=1)
        return expected(-log_p - self.epsilon * log_p.expm1(), targets)
