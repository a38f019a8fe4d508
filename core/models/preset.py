"""Preset: how the images were prepared for which a network was pretrained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """The preparation of images that published weights expect.

    size: (height, width).  resize_size: length of the shorter side before the center is cropped; None where images are
    not square.  interpolation: of labbook's names, or another one, which labbook does not have.  mean, std: of each
    channel, of pixels of 0 to 1.
    """

    size: tuple[int, int]
    resize_size: int | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def of_torchvision(entry: Any) -> Preset:
    """That of an entry of torchvision's enums of weights."""
    made = entry.transforms()
    (side,), (resized,) = set(made.crop_size), set(made.resize_size)
    return Preset((side, side), resized, made.interpolation.value, tuple(made.mean), tuple(made.std))


def of_timm(cfg: Mapping[str, Any]) -> Preset:
    """That of a pretrained_cfg of timm, whose crop_pct is the share of the shorter side that is kept."""
    _, height, width = cfg["input_size"]
    resized = math.floor(height / cfg["crop_pct"]) if height == width else None
    return Preset((height, width), resized, cfg["interpolation"], tuple(cfg["mean"]), tuple(cfg["std"]))
