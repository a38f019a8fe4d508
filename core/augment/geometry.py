"""Crop, flip and cutout of a batch, from keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field

from core import keys as K
from core.augment.base import BatchStep


class RandomCrop(BatchStep):
    """Pad with the mean colour (or by reflection) on each side, then cut the old size out at a random place."""

    padding: int = Field(4, ge=1, description="pixels on each side")
    reflect: bool = Field(False, description="pad by reflection, not with the mean colour")

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, keys: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        n, _, height, width = images.shape
        if self.padding >= min(height, width):
            raise ValueError(f"padding {self.padding} must be less than the {height}x{width} image")
        places = 2 * self.padding + 1
        padded = F.pad(images, (self.padding,) * 4, mode="reflect" if self.reflect else "constant")
        # A view of every window as [N, places, places, H, W, C]: picking one of each image copies whole rows.
        strides = padded.stride()
        windows = padded.as_strided(
            (n, places, places, height, width, images.shape[1]),
            (strides[0], strides[2], strides[3], strides[2], strides[3], strides[1]),
        )
        down, right = K.integers(keys, "crop down", places), K.integers(keys, "crop right", places)
        return windows[torch.arange(n, device=keys.device), down, right].permute(0, 3, 1, 2), targets


class HorizontalFlip(BatchStep):
    """Mirror left and right with probability p."""

    p: float = Field(0.5, ge=0, le=1, description="share of images mirrored")

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, keys: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        flipped = K.uniform(keys, "horizontal flip") < self.p
        return torch.where(flipped[:, None, None, None], images.flip(3), images), targets


class Cutout(BatchStep):
    """Set a square at a random centre to the mean colour (DeVries and Taylor 2017)."""

    size: int = Field(8, ge=1, description="side of the square in pixels, parts outside the image lost")

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, keys: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = images.shape[2:]
        if self.size > min(height, width):
            raise ValueError(f"a square of {self.size} pixels is larger than the {height}x{width} image")
        top = K.integers(keys, "cutout down", height) - self.size // 2
        left = K.integers(keys, "cutout right", width) - self.size // 2
        return images.masked_fill(box(images, top, left, top + self.size, left + self.size), 0.0), targets


def box(
    images: torch.Tensor, top: torch.Tensor, left: torch.Tensor, bottom: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """bool [N, 1, H, W], True where top <= row < bottom and left <= column < right (each [N])."""
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    down = (rows >= top[:, None]) & (rows < bottom[:, None])
    across = (columns >= left[:, None]) & (columns < right[:, None])
    return (down[:, :, None] & across[:, None, :])[:, None]
