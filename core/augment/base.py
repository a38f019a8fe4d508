"""Augment, the base of augmentation steps, and how a tuple of them is applied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import AfterValidator

from core.context import Clock
from core.declare.part import Part
from core.loading.images import Box, Pixels

if TYPE_CHECKING:
    from core.loading.batches import Batch

Steps = Callable[[np.ndarray, int], np.ndarray]


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if not 0 < bounds[0] <= bounds[1]:
        raise ValueError("should be two positive numbers, the smaller one first")
    return bounds


def _shares(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[1] > 1:
        raise ValueError("should be at most 1")
    return bounds


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
Shares = Annotated[Range, AfterValidator(_shares)]


class Augment(Part, ABC):
    """Base of augmentation steps."""


class ImageStep(Augment):
    """A step for one image at a time, in the loader, before every BatchStep."""

    @abstractmethod
    def transform(self) -> object:
        """An albumentations transform for uint8 images [H, W, C] that keeps their size."""


class Crop(Augment):
    """A step that cuts its part out of an image as it is stored, so that no more of it need be decoded; the first."""

    @abstractmethod
    def box(self, key: int, height: int, width: int) -> Box:
        """The part of an image of this size that the sample with this key gets."""

    def of(self, pixels: np.ndarray | Pixels, row: int, key: int) -> np.ndarray:
        """uint8 [H, W, C], of the size that all have."""
        if not isinstance(pixels, np.ndarray):
            return pixels.crop(row, partial(self.box, key))
        image = pixels[row]
        height, width = image.shape[:2]
        top, left, tall, wide = self.box(key, height, width)
        return resized(image[top : top + tall, left : left + wide], height, width)


class BatchStep(Augment):
    """A step for a whole batch on the device: a pure function of images, targets and keys."""

    @abstractmethod
    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, keys: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """images: float [N, C, H, W], normalized, so that 0 is the mean color.  keys: int64 [N]."""

    def apply(self, batch: Batch, classes: int, clock: Clock) -> Batch:
        """The batch after this step. One that looks at more of the batch than the call does, or at the clock, overrides
        this."""
        images, targets = self(batch.images, batch.targets, batch.keys, classes)
        return batch._replace(images=images, targets=targets)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [height, width, C] of an image uint8 [h, w, C]; bilinear, antialiased."""
    from PIL import Image

    planes = [image] if image.shape[2] == 3 else [image[..., channel] for channel in range(image.shape[2])]
    made = [Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in planes]
    return np.array(made[0]) if image.shape[2] == 3 else np.stack([np.array(plane) for plane in made], axis=2)


def augmented(steps: Iterable[Augment], classes: int, batch: Batch, clock: Clock) -> Batch:
    """The batch after every BatchStep. clock: of the step that it is for."""
    for step in steps:
        if isinstance(step, BatchStep):
            batch = step.apply(batch, classes, clock)
    return batch
