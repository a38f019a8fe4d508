"""The precision of the forward pass."""

from __future__ import annotations

import torch


def autocast_of(precision: str, device: torch.device) -> tuple[torch.dtype | None, str]:
    """Returns (dtype of autocast or None, name of the precision). "auto" is resolved for this device: on a CPU, it is
    fp32, unless the network is known to be faster in bf16 (core/models/precision.py)."""
    if precision == "auto":
        precision = "fp32"
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision], precision
