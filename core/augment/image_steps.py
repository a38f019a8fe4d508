"""Image steps: RandAugment, TrivialAugment, AutoAugment, color jitter, rotation and coarse dropout."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
from pydantic import Field

from core.augment.albumentation import Albumentation, of_function
from core.augment.base import ImageStep
from core.augment.operations import LEVELS, OPERATIONS, POLICY_LEVELS, SIGNED, operate, strength
from core.augment.policies import POLICIES
from core.context import Context

FILL = Field(128, ge=0, le=255, description="gray level of pixels filled in from outside the image, from 0 to 255")


class Operations(ImageStep, ABC):
    """Base class of steps that apply operations sampled per image, uint8 [H, W, 1 or 3], from the sample's key."""

    fill: int = FILL

    @abstractmethod
    def draw(self, shape: tuple[int, ...], chance: random.Random) -> list[tuple[str, float]]:
        """Sample (operation, value) pairs, in the order in which they are applied to an image of this shape."""

    def transform(self) -> object:
        return of_function(self.act)

    def act(self, image: np.ndarray, chance: random.Random) -> np.ndarray:
        """The image after the sampled operations."""
        for name, value in self.draw(image.shape, chance):
            image = operate(image, name, value, self.fill)
        return image


class RandAugment(Operations):
    """RandAugment (Cubuk et al. 2020, section 3): `num_ops` random operations of 14, all at the same magnitude.

    Operations are sampled with replacement for each image.
    """

    num_ops: int = Field(2, ge=1, le=20, description="number of operations applied to each image")
    magnitude: int = Field(9, ge=0, lt=LEVELS, description="magnitude of every operation, from 0 to 30")

    def draw(self, shape: tuple[int, ...], chance: random.Random) -> list[tuple[str, float]]:
        names = [chance.choice(OPERATIONS) for _ in range(self.num_ops)]
        level = self.magnitude / (LEVELS - 1)
        return [(name, _signed(name, strength(name, level, shape), chance)) for name in names]


class TrivialAugment(Operations):
    """TrivialAugment (Müller and Hutter 2021, section 3): one random operation of 14 at a random magnitude.

    The magnitude is uniform over the paper's wide range.
    """

    def draw(self, shape: tuple[int, ...], chance: random.Random) -> list[tuple[str, float]]:
        name, level = chance.choice(OPERATIONS), chance.randrange(LEVELS) / (LEVELS - 1)
        return [(name, _signed(name, strength(name, level, shape, wide=True), chance))]


class AutoAugment(Operations):
    """AutoAugment (Cubuk et al. 2019, tables 7 to 9): one of the 25 sub-policies of a learned policy, for each image.

    A sub-policy is two operations, each with its own probability and magnitude.
    """

    policy: Literal["cifar10", "imagenet", "svhn"] = Field(
        "cifar10", description="dataset on which the policy was learned"
    )

    def draw(self, shape: tuple[int, ...], chance: random.Random) -> list[tuple[str, float]]:
        drawn = []
        for name, p, level in chance.choice(POLICIES[self.policy]):
            if chance.random() < p:
                value = strength(name, level / (POLICY_LEVELS - 1), shape)
                drawn.append((name, _signed(name, value, chance)))
        return drawn


def _signed(name: str, value: float, chance: random.Random) -> float:
    return -value if name in SIGNED and chance.random() < 0.5 else value


class ColorJitter(ImageStep):
    """Randomly change the brightness, contrast, saturation and hue of an image, in random order (albumentations).

    Factors are uniform on [1 - x, 1 + x]; the shift of the hue is uniform on [-x, x], as a fraction of the color wheel.
    """

    brightness: float = Field(0.2, ge=0, le=1, description="maximum change x of the brightness factor, 1 - x to 1 + x")
    contrast: float = Field(0.2, ge=0, le=1, description="maximum change x of the contrast factor, 1 - x to 1 + x")
    saturation: float = Field(0.2, ge=0, le=1, description="maximum change x of the saturation factor, 1 - x to 1 + x")
    hue: float = Field(0.0, ge=0, le=0.5, description="maximum shift of the hue, as a fraction of the color wheel")
    p: float = Field(1.0, ge=0, le=1, description="probability of applying the transform to an image")

    def transform(self) -> object:
        return _transform("ColorJitter", **{name: getattr(self, name) for name in type(self).model_fields})


class Rotation(ImageStep):
    """Rotate an image around its center by a random angle, uniform on [-degrees, degrees], at the same size
    (albumentations)."""

    degrees: float = Field(15.0, gt=0, le=180, description="maximum rotation angle in either direction, in degrees")
    p: float = Field(1.0, ge=0, le=1, description="probability of rotating an image")
    fill: int = FILL

    def transform(self) -> object:
        return _transform("Rotate", limit=self.degrees, fill=float(self.fill), p=self.p)


class CoarseDropout(ImageStep):
    """Fill several squares at random locations with one gray level (albumentations; after DeVries and Taylor 2017)."""

    holes: int = Field(3, ge=1, le=1000, description="number of squares per image")
    size: int = Field(8, ge=1, description="side length of a square, in pixels")
    p: float = Field(1.0, ge=0, le=1, description="probability of applying the transform to an image")
    fill: int = Field(128, ge=0, le=255, description="gray level of the squares, from 0 to 255")

    def build(self, context: Context) -> CoarseDropout:
        """This step. Raises ValueError if the squares are larger than the images."""
        height, width = context.image_shape[:2]
        if self.size > min(height, width):
            raise ValueError(
                f"augment.coarse_dropout.size {self.size}: the squares are larger than the {height}x{width} images"
            )
        return self

    def transform(self) -> object:
        side, holes = (self.size, self.size), (self.holes, self.holes)
        given = {"num_holes_range": holes, "hole_height_range": side, "hole_width_range": side}
        return _transform("CoarseDropout", **given, fill=float(self.fill), p=self.p)


def _transform(name: str, **arguments: Any) -> object:
    return Albumentation(name=name, arguments=arguments).transform()
