"""Augment, the base of augmentation steps, and how a tuple of them is applied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch

from core.part import Part

if TYPE_CHECKING:
    from core.batches import Batch

ImageFunction = Callable[[np.ndarray, int], np.ndarray]


class Augment(Part, ABC):
    """Base of augmentation steps."""


class ImageStep(Augment):
    """A step for one image at a time, in the loader, before every BatchStep."""

    @abstractmethod
    def transform(self) -> object:
        """An albumentations transform for uint8 images [H, W, C] that keeps their size."""


class BatchStep(Augment):
    """A step for a whole batch on the device: a pure function of images, targets and keys."""

    @abstractmethod
    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, keys: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """images: float [N, C, H, W], normalised, so that 0 is the mean colour.  keys: int64 [N]."""

    def apply(self, batch: Batch, classes: int) -> Batch:
        """The batch after this step. One that looks at more of it than the call does overrides this."""
        images, targets = self(batch.images, batch.targets, batch.keys, classes)
        return batch._replace(images=images, targets=targets)


def normaliser(mean: Iterable[float], std: Iterable[float], device: torch.device) -> Callable[[Batch], Batch]:
    """Turns images uint8 [N, H, W, C] into float [N, C, H, W], channels last in memory, of mean 0 and deviation 1.

    mean, std: per channel, of pixels scaled to 0..1. Both empty: each image by its own, over all of its pixels and
    channels, as tf.image.per_image_standardization does.
    """
    mean, std = tuple(mean), tuple(std)
    if not mean:
        return _standardised
    shift = 255 * torch.tensor(mean, device=device)
    scale = 1 / (255 * torch.tensor(std, device=device))

    def normalise(batch: Batch) -> Batch:
        images = batch.images.float().sub_(shift).mul_(scale)
        return batch._replace(images=images.permute(0, 3, 1, 2))

    return normalise


def _standardised(batch: Batch) -> Batch:
    pixels = batch.images.float()
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    # as there, the deviation of an image of one colour is no less than that of a single pixel that is 1 off
    least = pixels[0].numel() ** -0.5
    std = pixels.std(dim=(1, 2, 3), keepdim=True, correction=0).clamp(min=least)
    return batch._replace(images=((pixels - mean) / std).permute(0, 3, 1, 2))


def augmented(steps: Iterable[Augment], classes: int, batch: Batch) -> Batch:
    """The batch after every BatchStep."""
    for step in steps:
        if isinstance(step, BatchStep):
            batch = step.apply(batch, classes)
    return batch


def per_image(steps: tuple[Augment, ...]) -> ImageFunction | None:
    """(image uint8 [H, W, C], key) -> image, of every ImageStep together; None where there is none.

    Raises ValueError where an ImageStep stands behind a BatchStep: the loader comes before the device.
    """
    image_steps = tuple(step for step in steps if isinstance(step, ImageStep))
    for step, expected in zip(steps, image_steps, strict=False):
        if step is not expected:
            raise ValueError(f"augment: {expected.label()} works on single images and must stand before {step.label()}")
    if not image_steps:
        return None
    from core.augment.albumentation import Pipeline

    return Pipeline(image_steps)
