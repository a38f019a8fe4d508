"""The image steps of a declaration composed into one function, which the loader workers call."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.augment.base import Augment, Crop, ImageStep, Steps
from core.loading.images import Pixels


class Pipeline:
    """The image steps composed into a function of (image, key) whose result does not depend on process or call order.

    All transforms share one Philox generator, whose counter is set to the key of the sample, so that a sample's random
    numbers do not depend on earlier samples. They are called one after the other: albumentations.Compose would check
    for masks, boxes and volumes at every image. They are built on first use: only the declaration is pickled when a
    worker starts.
    """

    def __init__(self, steps: tuple[ImageStep, ...]):
        self.steps = steps
        self._transforms: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        return {"steps": self.steps, "_transforms": []}

    def __call__(self, image: np.ndarray, key: int) -> np.ndarray:
        if not self._transforms:
            self._build()
        self._state["state"]["counter"][:] = (0, 0, 0, key & 0xFFFFFFFFFFFFFFFF)
        self._philox.state = self._state
        self._random.seed(key)
        self._random.random()  # the number that Compose drew first, so that those after it are the same as ever
        data = {"image": image}
        for transform in self._transforms:
            data = transform(**data)
        changed = data["image"]
        if changed.shape != image.shape or changed.dtype != image.dtype:
            raise ValueError(
                f"augment: the image steps changed an image from shape {image.shape}, {image.dtype} to "
                f"{changed.shape}, {changed.dtype}; they must preserve shape and dtype"
            )
        return changed

    def _build(self) -> None:
        import cv2

        cv2.setNumThreads(0)
        self._philox, self._random = np.random.Philox(0), random.Random()
        generator = np.random.Generator(self._philox)
        self._transforms = [step.transform() for step in self.steps]
        for transform in self._transforms:
            transform.set_random_state(generator, self._random)
        self._state: Any = self._philox.state


@dataclass(frozen=True)
class ImageFunction:
    """All image steps as one function: (image uint8 [H, W, C], key) -> image.  crop: the crop from the stored image,
    which is applied first."""

    crop: Crop | None
    others: Steps | None

    def __call__(self, image: np.ndarray, key: int) -> np.ndarray:
        return self.read(image[None], 0, key)

    def read(self, pixels: np.ndarray | Pixels, row: int, key: int) -> np.ndarray:
        """The transformed image `row` of pixels, uint8 [M, H, W, C]. If images are decoded on access and there is a
        crop, only the cropped region is decoded. The array is writable, as torch.from_numpy expects."""
        image = self.crop.of(pixels, row, key) if self.crop else np.array(pixels[row])
        made = self.others(image, key) if self.others else image
        return np.require(made, requirements=["C", "W"])  # arrays of Pillow images are read-only


def per_image(steps: tuple[Augment, ...]) -> ImageFunction | None:
    """The image steps among `steps` as one function; None if there are none.

    Raises ValueError if an ImageStep comes after a BatchStep, since batch steps run on the device, after the loader;
    and if a Crop is not the first step, since it reads the image as it is stored.
    """
    image_steps = tuple(step for step in steps if isinstance(step, ImageStep | Crop))
    for step, expected in zip(steps, image_steps, strict=False):
        if step is not expected:
            raise ValueError(
                f"augment: {expected.label()} transforms single images and must come before {step.label()}, "
                "which transforms batches"
            )
    crops = [step for step in image_steps if isinstance(step, Crop)]
    if crops and (len(crops) > 1 or image_steps[0] is not crops[0]):
        raise ValueError(f"augment: {crops[-1].label()} crops the image as it is stored; it must be the first step")
    if not image_steps:
        return None

    others = tuple(step for step in image_steps if isinstance(step, ImageStep))
    return ImageFunction(crops[0] if crops else None, Pipeline(others) if others else None)
