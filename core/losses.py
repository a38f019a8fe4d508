"""Losses: (logits [N, C], targets) -> [N], one value for each example. Their mean is what is minimised.

targets: int64 [N], or float [N, C] probabilities once images are mixed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from pydantic import Field

from core.part import Part


class Loss(Part, ABC):
    """Base of losses. One with weights of its own builds an nn.Module with this same call."""

    @abstractmethod
    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor: ...


def full(logits: torch.Tensor) -> torch.Tensor:
    """At least float32: half precision overflows in exponentials."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


class CrossEntropy(Loss):
    """Cross-entropy, optionally with label smoothing (Szegedy et al. 2016, section 7)."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="probability shared out over all classes")

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(full(logits), targets, reduction="none", label_smoothing=self.label_smoothing)


class FocalLoss(Loss):
    """(1 - p_t)^gamma times cross-entropy (Lin et al. 2017, equation 4); with soft targets, its expectation."""

    gamma: float = Field(2.0, ge=0, description="0 is cross-entropy; larger looks away from easy examples")

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        log_p = full(logits).log_softmax(dim=1)
        per_class = -((1 - log_p.exp()) ** self.gamma) * log_p
        if targets.is_floating_point():
            return (targets * per_class).sum(dim=1)
        return per_class.gather(1, targets[:, None]).squeeze(1)
