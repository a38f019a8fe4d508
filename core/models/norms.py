"""The normalization layers that a declared network can use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

Norm = Literal["batch", "group"]
NORM_MEANING = (
    "normalization layer. batch: BatchNorm (Ioffe and Szegedy 2015); group: GroupNorm with 8 channels per group (Wu "
    "and He 2018)"
)


def norm_layer(norm: Norm) -> Callable[[int], nn.Module]:
    """A function from the number of channels to a normalization layer for [N, channels, H, W]."""
    return nn.BatchNorm2d if norm == "batch" else _groups


def _groups(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 8), channels)
