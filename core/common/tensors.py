"""Functions of tensors that several rooms share."""

from __future__ import annotations

import torch


def full(logits: torch.Tensor) -> torch.Tensor:
    """At least float32: half precision overflows in exponentials."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
