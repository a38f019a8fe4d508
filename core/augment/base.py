"""Base classes of augmentation steps, and the function that applies a sequence of them to a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import AfterValidator
from torch.nn.functional import interpolate

from core.context import Clock
from core.declare.part import Part
from core.loading.images import Box, Pixels

if TYPE_CHECKING:
    from core.loading.batches import Batch

Steps = Callable[[np.ndarray, int], np.ndarray]


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if not 0 < bounds[0] <= bounds[1]:
        raise ValueError("should be two positive numbers (min, max) with min <= max")
    return bounds


def _at_most_one(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[1] > 1:
        raise ValueError("should be fractions: (min, max) with max <= 1")
    return bounds


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
FractionRange = Annotated[Range, AfterValidator(_at_most_one)]


class Augment(Part, ABC):
    """Base class of all augmentation steps."""


class ImageStep(Augment):
    """Base class of steps that transform one image at a time, in the loader, before every BatchStep."""

    @abstractmethod
    def transform(self) -> object:
        """An albumentations transform of uint8 images [H, W, C] that preserves their size."""


class Crop(Augment):
    """Base class of crops from the image as it is stored, of which only the cropped region needs to be decoded.

    A crop must be the first step of the augmentation.
    """

    @abstractmethod
    def box(self, key: int, height: int, width: int) -> Box:
        """(top, left, height, width) in pixels of the crop, for the sample with this key and an image of this size."""

    def of(self, pixels: np.ndarray | Pixels, row: int, key: int) -> np.ndarray:
        """The crop of image `row`, resized to the size shared by all images: uint8 [H, W, C]."""
        if not isinstance(pixels, np.ndarray):
            return pixels.crop(row, partial(self.box, key))
        image = pixels[row]
        height, width = image.shape[:2]
        top, left, tall, wide = self.box(key, height, width)
        return resized(image[top : top + tall, left : left + wide], height, width)


class BatchStep(Augment):
    """Base class of steps that transform a whole batch on the device: pure functions of images, targets and keys."""

    @abstractmethod
    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, keys: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The transformed (images, targets).

        images: float [N, C, H, W], normalized, so that 0 is the mean color.  targets: int64 [N] or float [N, C].
        keys: int64 [N].
        """

    def apply(self, batch: Batch, classes: int, clock: Clock) -> Batch:
        """The batch after this step. Override it in a step that needs the clock, or more of the batch than `__call__`
        receives."""
        images, targets = self(batch.images, batch.targets, batch.keys, classes)
        return batch._replace(images=images, targets=targets)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image, uint8 [h, w, C], to uint8 [height, width, C] with antialiased bilinear interpolation. Its result
    is within one gray level of Pillow's."""
    part = torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2)  # channels last: several times faster
    made = interpolate(part, (height, width), mode="bilinear", antialias=True)
    return made[0].permute(1, 2, 0).contiguous().numpy()


def augmented(steps: Iterable[Augment], classes: int, batch: Batch, clock: Clock) -> Batch:
    """Apply every BatchStep of `steps` to the batch, in order. clock: of the training step that the batch is for."""
    for step in steps:
        if isinstance(step, BatchStep):
            batch = step.apply(batch, classes, clock)
    return batch
