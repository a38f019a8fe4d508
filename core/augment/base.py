"""Augment, the base of augmentation steps, and how a tuple of them is applied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from core.images import Box, Pixels
from core.part import Part

if TYPE_CHECKING:
    from core.batches import Batch

Steps = Callable[[np.ndarray, int], np.ndarray]


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
        """images: float [N, C, H, W], normalised, so that 0 is the mean colour.  keys: int64 [N]."""

    def apply(self, batch: Batch, classes: int) -> Batch:
        """The batch after this step. One that looks at more of it than the call does overrides this."""
        images, targets = self(batch.images, batch.targets, batch.keys, classes)
        return batch._replace(images=images, targets=targets)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [height, width, C] of an image uint8 [h, w, C]; bilinear, antialiased."""
    from PIL import Image

    planes = [image] if image.shape[2] == 3 else [image[..., channel] for channel in range(image.shape[2])]
    made = [Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in planes]
    return np.array(made[0]) if image.shape[2] == 3 else np.stack([np.array(plane) for plane in made], axis=2)


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
        width = batch.images.shape[2]
        # rows of all channels in one: against a last dimension of three, a CPU takes several times as long
        rows = batch.images.float().flatten(2).sub_(shift.repeat(width)).mul_(scale.repeat(width))
        return batch._replace(images=rows.view(batch.images.shape).permute(0, 3, 1, 2))

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


@dataclass(frozen=True)
class ImageFunction:
    """Every ImageStep together: (image uint8 [H, W, C], key) -> image. crop: what cuts from the image as it is stored,
    before all else."""

    crop: Crop | None
    others: Steps | None

    def __call__(self, image: np.ndarray, key: int) -> np.ndarray:
        return self.read(image[None], 0, key)

    def read(self, pixels: np.ndarray | Pixels, row: int, key: int) -> np.ndarray:
        """One image out of many, uint8 [M, H, W, C]; of one that is decoded only now, what is cut out alone. It can be
        written to, as torch asks of what becomes a tensor."""
        image = self.crop.of(pixels, row, key) if self.crop else np.array(pixels[row])
        made = self.others(image, key) if self.others else image
        return np.require(made, requirements=["C", "W"])  # Pillow gives read-only ones


def per_image(steps: tuple[Augment, ...]) -> ImageFunction | None:
    """None where there is no ImageStep.

    Raises ValueError where an ImageStep stands behind a BatchStep: the loader comes before the device; and where a Crop
    stands behind anything: it cuts from the image as it is stored.
    """
    image_steps = tuple(step for step in steps if isinstance(step, ImageStep | Crop))
    for step, expected in zip(steps, image_steps, strict=False):
        if step is not expected:
            raise ValueError(f"augment: {expected.label()} works on single images and must stand before {step.label()}")
    crops = [step for step in image_steps if isinstance(step, Crop)]
    if crops and (len(crops) > 1 or image_steps[0] is not crops[0]):
        raise ValueError(f"augment: {crops[-1].label()} cuts from the image as it is stored: it must come first")
    if not image_steps:
        return None
    from core.augment.albumentation import Pipeline

    others = tuple(step for step in image_steps if isinstance(step, ImageStep))
    return ImageFunction(crops[0] if crops else None, Pipeline(others) if others else None)
