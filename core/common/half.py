"""Networks whose weights themselves are in half precision, in place of fp32 weights with autocast."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from core.common.tensors import BatchNorm, full

OWN = "own_dtype"  # attribute of a network: the dtype of what goes in


def in_half(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert the weights and buffers of a network to bf16 or fp16, in place, and return it. It takes and returns
    float32.

    BatchNorm stays in fp32 as a whole: a running mean to which a tenth of a difference is added does not change in bf16
    as soon as that is less than 1/512 of it, and torch's kernels take its weights and its statistics in one dtype.
    """
    for module in network.modules():
        if not isinstance(module, BatchNorm):
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.is_floating_point():
                    tensor.data = tensor.data.to(dtype)
    vars(network)[OWN] = dtype
    network.register_forward_pre_hook(_enter)
    network.register_forward_hook(_leave)
    return network


def in_full(network: nn.Module) -> nn.Module:
    """Convert a copy of such a network to fp32, in place, and return it."""
    vars(network)[OWN] = torch.float32
    return network.float()


def _enter(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (inputs[0].to(vars(network)[OWN]), *inputs[1:])


def _leave(network: nn.Module, inputs: object, output: Any) -> Any:
    """Logits in float32; of a network with auxiliary heads, each of them."""
    if isinstance(output, tuple):
        made = map(full, output)
        return type(output)(*made) if hasattr(output, "_fields") else tuple(made)
    return full(output)
