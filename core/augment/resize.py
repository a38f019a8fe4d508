"""Resize: training images that are small in the first epochs and have their full size in the last ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field

from core.augment.base import BatchStep
from core.context import Clock, Context

if TYPE_CHECKING:
    from core.loading.batches import Batch


class Resize(BatchStep):
    """Progressive resizing: the first epochs train on smaller images, [N, C, h, w], and the last ones at full size.

    Howard's fast.ai entry to DAWNBench (2018) trains so, and FFCV (Leclerc et al. 2023); the fields are those of
    MosaicML's Composer (2022). The sides are constant for `delay_fraction` of the epochs, then grow linearly from epoch
    to epoch, and are full for the last `finetune_fraction`, at least for the last epoch: a network should end at the
    size that it is tested at (Touvron et al. 2019, FixRes). Images are resized on the device, bilinear and antialiased.
    Validation and test images always have the full size.

    Steps before it see the full size, steps after it the smaller one; their fields in pixels do not change with it.
    Early stopping and max_minutes may end a run before its images have the full size.
    """

    initial_scale: float = Field(
        0.75, gt=0, lt=1, description="side length in the first epochs, as a fraction of the full one"
    )
    delay_fraction: float = Field(
        0.5, ge=0, lt=1, description="fraction of the epochs after which images begin to grow"
    )
    finetune_fraction: float = Field(
        0.2, ge=0, lt=1, description="fraction of the epochs, at the end, that train at full size"
    )
    size_increment: int = Field(
        4, ge=1, le=64, description="the sides of smaller images are multiples of this many pixels"
    )

    def check(self) -> None:
        if self.delay_fraction + self.finetune_fraction > 1:
            raise ValueError(
                f"delay_fraction {self.delay_fraction} and finetune_fraction {self.finetune_fraction} together must "
                "not exceed 1"
            )

    def build(self, context: Context) -> Resize:
        """This step. Raises ValueError if the first images would have the full size already."""
        height, width = context.image_shape[:2]
        if self._scaled(height, self.initial_scale) == height and self._scaled(width, self.initial_scale) == width:
            raise ValueError(
                f"augment.resize: {self.initial_scale} of {height}x{width} pixels, rounded to multiples of "
                f"{self.size_increment}, is the full size; lower initial_scale or size_increment"
            )
        return self

    def size(self, clock: Clock, height: int, width: int) -> tuple[int, int]:
        """(height, width) in the epoch of this step of training, for images of height x width at full size."""
        begin = self.delay_fraction * clock.epochs
        full = min(clock.epochs - 1, (1 - self.finetune_fraction) * clock.epochs)
        if clock.epoch >= full:
            return height, width
        grown = max(0.0, (clock.epoch - begin) / (full - begin)) if full > begin else 0.0
        scale = self.initial_scale + (1 - self.initial_scale) * grown
        return self._scaled(height, scale), self._scaled(width, scale)

    def _scaled(self, side: int, scale: float) -> int:
        unit = self.size_increment
        return min(side, max(1, round(side * scale / unit)) * unit)

    def apply(self, batch: Batch, classes: int, clock: Clock) -> Batch:
        size = self.size(clock, *batch.images.shape[2:])
        if size == batch.images.shape[2:]:
            return batch
        images = F.interpolate(batch.images, size, mode="bilinear", antialias=True)
        return batch._replace(images=images.contiguous(memory_format=torch.channels_last))

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, keys: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Raises ValueError: without a clock, the size is not known."""
        raise ValueError("its size depends on the epoch; declare it in augment")
