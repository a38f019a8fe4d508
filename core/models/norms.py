"""The norms that a network may be declared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

Norm = Literal["batch", "group"]
NORM_MEANING = "batch: BatchNorm (Ioffe and Szegedy 2015); group: GroupNorm of 8 channels each (Wu and He 2018)"


def norm_layer(norm: Norm) -> Callable[[int], nn.Module]:
    """Channels -> a norm of [N, channels, H, W]. GroupNorm sees one image at a time."""
    return nn.BatchNorm2d if norm == "batch" else _groups


def _groups(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 8), channels)
