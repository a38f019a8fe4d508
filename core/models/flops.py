"""What a network costs, in floating-point operations (FLOPs).

One convention everywhere: convolutions and matrix products count, those of attention among them, a multiply-add as 2
(papers often count it as 1). Activations, normalizations and additions do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from core.models.inspection import evaluation_mode


@contextmanager
def counted_flops() -> Iterator[FlopCounterMode]:
    """Count what runs in the body, without gradients; the same on every version of torch and every device.

    Fused attention is a single operation, which some versions of torch count and others leave out. Here attention runs
    as the matrix products that it consists of.
    """
    from torch.backends import mha
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = mha.get_fastpath_enabled()
    try:
        mha.set_fastpath_enabled(False)
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        mha.set_fastpath_enabled(fast)


def forward_flops(network: nn.Module, shape: tuple[int, int, int]) -> int | None:
    """FLOPs of the forward pass of one image (height, width, channels), in evaluation mode.

    None where the network cannot be run so. It leaves the network as it was.
    """
    weight = next(network.parameters(), None)
    height, width, channels = shape
    image = torch.zeros(1, channels, height, width, device=None if weight is None else weight.device)
    try:
        with counted_flops() as counter, evaluation_mode(network):
            network(image)
    except Exception:  # a figure for the record: what is wrong with the network shows in training
        return None
    return counter.get_total_flops()
