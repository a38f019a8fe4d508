"""The precision of a network: of the forward pass under autocast, or of the weights themselves."""

from __future__ import annotations

import torch

HALVES = {"bf16-true": torch.bfloat16, "fp16-true": torch.float16}  # named as in Lightning


def autocast_of(precision: str, device: torch.device) -> tuple[torch.dtype | None, str]:
    """Returns (dtype of autocast or None, name of the precision). "auto" is resolved for this device: on a CPU, it is
    fp32, unless the network is known to be faster in bf16 (core/models/precision.py). In bf16-true and fp16-true,
    nothing is cast automatically."""
    if precision in HALVES:
        return None, precision
    if precision == "auto":
        precision = "fp32"
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision], precision


def refuse_half(precision: str, device: torch.device) -> None:
    """Raise ValueError if weights of this precision cannot be trained on a device."""
    if precision == "fp16-true" and device.type != "cuda":
        raise ValueError(
            f"precision fp16-true: torch has fast fp16 kernels for GPUs only, and this is a {device.type} device; use "
            "bf16-true"
        )
