"""Functions of tensors that several rooms share."""

from __future__ import annotations

import torch


def full(logits: torch.Tensor) -> torch.Tensor:
    """Returns the logits in float32 if they are in half precision, which overflows in exponentials."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
