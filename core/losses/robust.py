"""Losses that bound what a wrong label can do."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch.autograd.function import once_differentiable

from core.common.tensors import full
from core.losses.base import Loss, expected, spread


class SymmetricCrossEntropy(Loss):
    """alpha CE(q, p) + beta CE(p, q), where log 0 of a target is `log_zero` (Wang et al. 2019, section 3).

    logits [N, C]; targets int64 [N] or float [N, C]; gives [N].
    """

    alpha: float = Field(0.1, ge=0, description="weight of cross-entropy")
    beta: float = Field(1.0, ge=0, description="weight of reverse cross-entropy, bounded by -log_zero")
    log_zero: float = Field(-4.0, lt=0, description="stands for the logarithm of a target of 0 (A in the paper)")

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        log_p = full(logits).log_softmax(dim=1)
        log_q = spread(targets, log_p).log().clamp(min=self.log_zero)
        return -self.alpha * expected(log_p, targets) - self.beta * (log_p.exp() * log_q).sum(dim=1)


class GeneralizedCrossEntropy(Loss):
    """(1 - p_t^q) / q: cross-entropy as q goes to 0, 1 - p_t at 1 (Zhang and Sabuncu 2018, section 3).

    logits [N, C]; targets int64 [N] or float [N, C], for which it is the expectation; gives [N]. Its gradient is
    written by hand: the example of a loss that brings its own.
    """

    q: float = Field(0.7, gt=0, le=1, description="larger bears more wrong labels and learns more slowly")

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = full(logits)
        losses: torch.Tensor = _GeneralizedCrossEntropy.apply(logits, spread(targets, logits), self.q)
        return losses


class _GeneralizedCrossEntropy(torch.autograd.Function):
    """Keeps one tensor [N, C] for the way back where autograd would keep four."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, q: float) -> torch.Tensor:
        log_p = logits.log_softmax(dim=1)
        ctx.save_for_backward(log_p, targets)
        ctx.q = q
        return (targets * -(q * log_p).expm1()).sum(dim=1) / q  # expm1: exact also for q near 0

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """d/dz_k of the sum over c of t_c (1 - p_c^q) / q is p_k (sum over c of t_c p_c^q) - t_k p_k^q."""
        log_p, targets = ctx.saved_tensors
        pull = targets * (ctx.q * log_p).exp()
        gradient = log_p.exp() * pull.sum(dim=1, keepdim=True) - pull
        return upstream[0][:, None] * gradient, None, None
