"""Whether a CPU trains a network faster in bf16 than in fp32: a rule, so that the choice can be repeated."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import nn

from core.models.inspection import evaluation_mode, hooked

NATIVE = ("amx_bf16", "avx512_bf16", "bf16")  # instructions that multiply in bf16: of Intel, of Intel and AMD, of Arm
# measured by tests/benchmarks/precision.py, see docs/performance.md: below, bf16 gains little or is slower
FEWEST_FLOPS = 1e9  # of the forward pass of a batch
FEWEST_FLOPS_PER_ELEMENT = 100.0  # of the outputs of all layers


@cache
def has_bf16() -> bool:
    """Whether this CPU has instructions that multiply in bf16. Without them, bf16 is slower than fp32."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in NATIVE)


def is_faster_in_bf16(
    network: nn.Module, shape: tuple[int, int, int], batch: int, counted: Callable[[], int | None]
) -> bool:
    """Whether training steps of `batch` images of shape (height, width, channels) are faster in bf16 on this CPU.

    counted: the FLOPs of the forward pass of one image; called if they matter.

    bf16 speeds up convolutions and matrix products, and converts the inputs of each of them. So it is faster if there
    are many floating-point operations in total, and many for each element that a layer outputs: not with depthwise
    convolutions, as in MobileNet and EfficientNet.
    """
    flops = counted() if has_bf16() else None
    if flops is None or flops * batch < FEWEST_FLOPS:
        return False
    return flops >= FEWEST_FLOPS_PER_ELEMENT * output_elements(network, shape)


def output_elements(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Number of elements that all layers output for one image."""
    weight = next(network.parameters())
    height, width, channels = shape
    layers = [(name, module) for name, module in network.named_modules() if not any(module.children())]
    sizes: list[int] = []

    def count(name: str, module: nn.Module, output: object) -> None:
        sizes.append(output.numel() if isinstance(output, torch.Tensor) else 0)

    with hooked(layers, count), torch.no_grad(), evaluation_mode(network):
        network(torch.zeros(1, channels, height, width, device=weight.device))
    return sum(sizes)
