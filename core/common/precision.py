"""The precision in which forward passes are computed."""

from __future__ import annotations

import torch


def autocast_of(precision: str, device: torch.device) -> tuple[torch.dtype | None, str]:
    """(dtype of autocast or None, its name): what `precision` comes to on this device."""
    if precision == "auto":
        precision = "fp32"
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision], precision
