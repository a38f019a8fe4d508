"""Losses that are robust to label noise: the loss of a wrong label is bounded."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch.autograd.function import once_differentiable

from core.common.tensors import full
from core.losses.base import Loss, expected, probabilities


class SymmetricCrossEntropy(Loss):
    """Symmetric cross-entropy, alpha * CE(q, p) + beta * CE(p, q) (Wang et al. 2019, section 3).

    q are the targets and p the predicted probabilities; log 0 in the reverse term is replaced by `log_zero`.
    logits [N, C]; targets int64 [N] or float [N, C]; returns [N].
    """

    alpha: float = Field(0.1, ge=0, description="weight of cross-entropy")
    beta: float = Field(1.0, ge=0, description="weight of reverse cross-entropy, which is bounded by -log_zero")
    log_zero: float = Field(-4.0, lt=0, description="value used for log 0 of a target (A in the paper)")

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        log_p = full(logits).log_softmax(dim=1)
        log_q = probabilities(targets, log_p).log().clamp(min=self.log_zero)
        return -self.alpha * expected(log_p, targets) - self.beta * (log_p.exp() * log_q).sum(dim=1)


class GeneralizedCrossEntropy(Loss):
    """Generalized cross-entropy, (1 - p_t^q) / q (Zhang and Sabuncu 2018, section 3).

    It tends to cross-entropy as q goes to 0 and is 1 - p_t, the mean absolute error up to a factor, at q = 1.
    logits [N, C]; targets int64 [N], or float [N, C], for which it is the expected loss; returns [N]. The gradient is
    implemented by hand, as an example of a custom autograd function.
    """

    q: float = Field(
        0.7, gt=0, le=1, description="exponent; larger values tolerate more label noise but converge more slowly"
    )

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = full(logits)
        values: torch.Tensor = _GeneralizedCrossEntropy.apply(logits, probabilities(targets, logits), self.q)
        return values


class _GeneralizedCrossEntropy(torch.autograd.Function):
    """Saves one tensor [N, C] for the backward pass, where autograd would save four."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, q: float) -> torch.Tensor:
        log_p = logits.log_softmax(dim=1)
        ctx.save_for_backward(log_p, targets)
        ctx.q = q
        return (targets * -(q * log_p).expm1()).sum(dim=1) / q  # expm1 is accurate for q near 0

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """d/dz_k of the sum over c of t_c (1 - p_c^q) / q is p_k (sum over c of t_c p_c^q) - t_k p_k^q."""
        log_p, targets = ctx.saved_tensors
        pull = targets * (ctx.q * log_p).exp()
        gradient = log_p.exp() * pull.sum(dim=1, keepdim=True) - pull
        return upstream[0][:, None] * gradient, None, None
