"""Cross-entropy and its kin: from log-probabilities of the true class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator

from core.common.tensors import full
from core.losses.base import ByClass, Loss, counts, expected, number_per_class

if TYPE_CHECKING:
    from core.context import Context


class CrossEntropy(Loss):
    """Cross-entropy, optionally with label smoothing (Szegedy et al. 2016, section 7) and class weights.

    logits [N, C]; targets int64 [N] or float [N, C]; gives [N]. Each class's term is multiplied by its weight and the
    mean over a batch is a plain one. "balanced" is N / (C n_c), whose mean over the training set is 1 (King and
    Zeng 2001).
    """

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="probability shared out over all classes")
    weights: tuple[float, ...] | Literal["balanced"] | None = Field(
        None, description="of each class (1,1,2), or balanced: by the inverse of its count; none: all 1"
    )

    @field_validator("weights", mode="plain")
    @classmethod
    def _weights_are_one_number_a_class(cls, value: Any) -> Any:
        return number_per_class(value)

    def build(self, context: Context) -> Any:
        if self.weights is None:
            return self
        classes = len(context.classes)
        if isinstance(self.weights, tuple) and len(self.weights) != classes:
            raise ValueError(f"loss.weights: {len(self.weights)} numbers for {classes} classes; one each is needed")
        balanced = context.train_size / (classes * counts(context))
        return ByClass(self.values, balanced if self.weights == "balanced" else torch.tensor(self.weights))

    def values(self, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """[N], of logits [N, C] and targets, each class weighted by weights float [C]."""
        logits = full(logits)
        weight = None if weights is None else weights.to(logits.dtype)
        return F.cross_entropy(logits, targets, weight=weight, reduction="none", label_smoothing=self.label_smoothing)

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.weights is not None:
            raise TypeError("CrossEntropy with weights: call what its build(context) gives")
        return self.values(logits, targets)


class NegativeLogLikelihood(Loss):
    """-log p of the true class, for a network that ends in log_softmax (Bishop 2006, equation 4.108).

    "logits" [N, C] are log-probabilities here; targets int64 [N] or float [N, C]; gives [N]. With a network that does
    not end so, it has no lower bound.
    """

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return -expected(full(logits), targets)


class FocalLoss(Loss):
    """(1 - p_t)^gamma times cross-entropy (Lin et al. 2017, equation 4); with soft targets, its expectation.

    logits [N, C]; targets int64 [N] or float [N, C]; gives [N].
    """

    gamma: float = Field(2.0, ge=0, description="0 is cross-entropy; larger looks away from easy examples")

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        log_p = full(logits).log_softmax(dim=1)
        # kept from 0, where a power below 1 has an infinite slope
        missing = (-log_p.expm1()).clamp(min=torch.finfo(log_p.dtype).tiny)
        return expected(-(missing**self.gamma) * log_p, targets)


class PolyLoss(Loss):
    """Poly-1: cross-entropy + epsilon (1 - p_t) (Leng et al. 2022); with soft targets, its expectation.

    logits [N, C]; targets int64 [N] or float [N, C]; gives [N].
    """

    epsilon: float = Field(2.0, ge=-1, description="added to the first coefficient of cross-entropy's series, 1")

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        log_p = full(logits).log_softmax(dim=1)
        return expected(-log_p - self.epsilon * log_p.expm1(), targets)
