"""The image steps of a declaration as one function that a loader worker applies."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.augment.base import Augment, Crop, ImageStep, Steps
from core.loading.images import Pixels


class Pipeline:
    """The image steps as one function of (image, key), the same in any process and any order.

    All transforms share one Philox generator, whose counter is set from the key of the sample: what a sample gets
    depends on nothing that came before. Built on first use, so that it travels to a worker as its declaration.
    """

    def __init__(self, steps: tuple[ImageStep, ...]):
        self.steps = steps
        self._compose: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"steps": self.steps, "_compose": None}

    def __call__(self, image: np.ndarray, key: int) -> np.ndarray:
        if self._compose is None:
            self._build()
        self._state["state"]["counter"][:] = (0, 0, 0, key & 0xFFFFFFFFFFFFFFFF)
        self._philox.state = self._state
        self._random.seed(key)
        changed: np.ndarray = self._compose(image=image)["image"]
        if changed.shape != image.shape or changed.dtype != image.dtype:
            raise ValueError(
                f"augment: an image of {image.shape} {image.dtype} came out as {changed.shape} {changed.dtype}; "
                "image steps must keep size and type"
            )
        return changed

    def _build(self) -> None:
        import albumentations
        import cv2

        cv2.setNumThreads(0)
        self._compose = albumentations.Compose([step.transform() for step in self.steps])
        self._philox, self._random = np.random.Philox(0), random.Random()
        self._compose.set_random_state(np.random.Generator(self._philox), self._random)
        self._state: Any = self._philox.state


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

    others = tuple(step for step in image_steps if isinstance(step, ImageStep))
    return ImageFunction(crops[0] if crops else None, Pipeline(others) if others else None)
