"""The number of floating-point operations (FLOPs) of a network.

Convolutions and matrix products, including those of attention, are counted, with a multiply-add as 2 operations (papers
often count 1). Activations, normalizations and additions are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from core.models.inspection import evaluation_mode

Shape = Sequence[int]


def _of_layer(rows: Shape, own: Shape, recurrent: Shape, *_: Any, **__: Any) -> int:
    """Of one recurrent layer in one direction. rows: [steps, N, inputs].  own, recurrent: shapes of its weights."""
    return 2 * rows[0] * rows[1] * (math.prod(own) + math.prod(recurrent))


def _of_layers(rows: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    """Of all recurrent layers, with the shapes of all weights and biases."""
    return 2 * rows[0] * rows[1] * sum(math.prod(shape) for shape in weights if len(shape) == 2)


# the recurrent layers that torch computes as a whole, on a CPU and on a GPU, and does not count
RECURRENT = {torch.ops.aten.mkldnn_rnn_layer: _of_layer, torch.ops.aten._cudnn_rnn: _of_layers}


@contextmanager
def counted_flops() -> Iterator[FlopCounterMode]:
    """Context manager that counts the FLOPs of its body, without gradients.

    The count is the same for all versions of torch and all devices: attention is computed as separate matrix products,
    because some versions of torch count fused attention and others do not.
    """
    from torch.backends import mha
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = mha.get_fastpath_enabled()
    try:
        mha.set_fastpath_enabled(False)
        counting = FlopCounterMode(display=False, custom_mapping=RECURRENT)
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), counting as counter:
            yield counter
    finally:
        mha.set_fastpath_enabled(fast)


def forward_flops(network: nn.Module, shape: tuple[int, int, int]) -> int | None:
    """FLOPs of the forward pass of one image of shape (height, width, channels), in evaluation mode.

    None if that forward pass fails. The network and its training mode are unchanged.
    """
    weight = next(network.parameters(), None)
    height, width, channels = shape
    image = torch.zeros(1, channels, height, width, device=None if weight is None else weight.device)
    try:
        with counted_flops() as counter, evaluation_mode(network):
            network(image)
    except Exception:  # the count is only for the record; an error of the network appears in training
        return None
    return counter.get_total_flops()
