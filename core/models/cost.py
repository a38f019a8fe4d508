"""What a network costs."""

from __future__ import annotations

import torch
from torch import nn


def forward_flops(network: nn.Module, shape: tuple[int, int, int]) -> int | None:
    """Floating-point operations of the forward pass of one image (height, width, channels), in evaluation mode.

    As torch counts: convolutions, matrix products and attention alone, a multiply-add as 2; papers often count it as 1.
    None where the network cannot be run so. It leaves the network as it was.
    """
    from torch.backends import mha
    from torch.utils.flop_counter import FlopCounterMode

    weight = next(network.parameters(), None)
    height, width, channels = shape
    image = torch.zeros(1, channels, height, width, device=None if weight is None else weight.device)
    modes, fast = [(module, module.training) for module in network.modules()], mha.get_fastpath_enabled()
    counter = FlopCounterMode(display=False)
    try:
        mha.set_fastpath_enabled(False)  # fused attention is one operation, which is not counted
        with torch.no_grad(), counter:
            network.eval()(image)
    except Exception:  # a figure for the record: what is wrong with the network shows in training
        return None
    finally:
        mha.set_fastpath_enabled(fast)
        for module, training in modes:
            module.training = training
    return counter.get_total_flops()
