"""The normalization layers that a declared network can use, and the momentum of their running statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

from core.common.tensors import BatchNorm

Norm = Literal["batch", "group"]
NORM_MEANING = (
    "normalization layer. batch: BatchNorm (Ioffe and Szegedy 2015); group: GroupNorm with 8 channels per group (Wu "
    "and He 2018)"
)
MOMENTUM_MEANING = (
    "weight of each new batch in the running statistics of BatchNorm, which evaluation uses; none: the network's "
    "default (0.1, but 0.01 in torchvision's mobilenet_v3 and 0.0003 in its mnasnet)"
)


def norm_layer(norm: Norm) -> Callable[[int], nn.Module]:
    """A function from the number of channels to a normalization layer for [N, channels, H, W]."""
    return nn.BatchNorm2d if norm == "batch" else _groups


def set_momentum(network: nn.Module, momentum: float) -> None:
    """Set the weight of each new batch in the running statistics of every BatchNorm. Raises ValueError if the network
    has none."""
    norms = [module for module in network.modules() if isinstance(module, BatchNorm)]
    if not norms:
        raise ValueError("norm_momentum: the network has no BatchNorm; set it to none")
    for norm in norms:
        norm.momentum = momentum


def slow_statistics(network: nn.Module, batches: int) -> str | None:
    """A note to the user if a BatchNorm has a momentum below torch's default of 0.1, and its running statistics will
    still be a thousandth or more of their initial values after a training of this many batches; otherwise None."""
    momentum = min((norm.momentum or 1.0 for norm in network.modules() if isinstance(norm, BatchNorm)), default=1.0)
    left = (1 - momentum) ** batches
    if momentum >= 0.1 or left < 0.001:
        return None
    return (
        f"model: after {batches:,} batches, {left:.1%} of the running statistics of BatchNorm (momentum {momentum:g}) "
        "are their initial values, and validation may be far worse than training; train longer, or set "
        "--model.norm_momentum 0.1"
    )


def _groups(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 8), channels)
