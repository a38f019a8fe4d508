"""Sums over a split, from which every metric follows: divide by counts last, so that a short batch weighs rightly."""

from __future__ import annotations

import torch


def confusion(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """int64 [C, C], rows true classes, columns predictions, from logits [N, C] and targets int64 [N]."""
    classes = logits.shape[1]
    return torch.bincount(targets * classes + logits.argmax(dim=1), minlength=classes**2).view(classes, classes)


def correct(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """How many of N predictions are right, as float32; a mixed target counts as its largest class."""
    hard = targets.argmax(dim=1) if targets.is_floating_point() else targets
    return (logits.argmax(dim=1) == hard).sum(dtype=torch.float32)


def in_top(logits: torch.Tensor, targets: torch.Tensor, k: int) -> torch.Tensor:
    """How many of N targets are among the k largest logits."""
    return (logits.topk(k, dim=1).indices == targets[:, None]).sum()
