"""Functions of tensors that several rooms share."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

BatchNorm = _BatchNorm  # the base of BatchNorm1d, BatchNorm2d, BatchNorm3d and SyncBatchNorm


def full(logits: torch.Tensor) -> torch.Tensor:
    """Returns the logits in float32 if they are in half precision, which overflows in exponentials."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
