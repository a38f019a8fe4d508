"""Ready sets of image steps: learned and random policies, color jitter, rotation, coarse dropout."""

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

FILL = Field(128, ge=0, le=255, description="gray level of what comes in from outside the image")


class Operations(ImageStep, ABC):
    """Base of steps that apply operations drawn for each image, uint8 [H, W, 1 or 3], from its key."""

    fill: int = FILL

    @abstractmethod
    def draw(self, shape: tuple[int, ...], chance: random.Random) -> list[tuple[str, float]]:
        """(operation, value) in the order in which they act on an image of this shape."""

    def transform(self) -> object:
        return of_function(self.act)

    def act(self, image: np.ndarray, chance: random.Random) -> np.ndarray:
        """The image after what is drawn."""
        for name, value in self.draw(image.shape, chance):
            image = operate(image, name, value, self.fill)
        return image


class RandAugment(Operations):
    """n operations of 14, drawn with replacement, each at the same magnitude (Cubuk et al. 2020, section 3)."""

    num_ops: int = Field(2, ge=1, le=20, description="operations for each image")
    magnitude: int = Field(9, ge=0, lt=LEVELS, description="strength of every operation, of 0 .. 30")

    def draw(self, shape: tuple[int, ...], chance: random.Random) -> list[tuple[str, float]]:
        names = [chance.choice(OPERATIONS) for _ in range(self.num_ops)]
        level = self.magnitude / (LEVELS - 1)
        return [(name, _signed(name, strength(name, level, shape), chance)) for name in names]


class TrivialAugment(Operations):
    """One operation of 14, its strength drawn evenly from a wide range (Müller and Hutter 2021, section 3)."""

    def draw(self, shape: tuple[int, ...], chance: random.Random) -> list[tuple[str, float]]:
        name, level = chance.choice(OPERATIONS), chance.randrange(LEVELS) / (LEVELS - 1)
        return [(name, _signed(name, strength(name, level, shape, wide=True), chance))]


class AutoAugment(Operations):
    """One of 25 learned pairs of operations, each with its probability (Cubuk et al. 2019, tables 7 to 9)."""

    policy: Literal["cifar10", "imagenet", "svhn"] = Field("cifar10", description="the data that it was learned on")

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
    """Brightness, contrast, saturation and hue of an image, each changed at random, in random order (albumentations).

    Each is the largest change: a factor drawn from 1 - x .. 1 + x, and for hue a turn of -x .. x of the circle.
    """

    brightness: float = Field(0.2, ge=0, le=1, description="largest change of brightness")
    contrast: float = Field(0.2, ge=0, le=1, description="largest change of contrast")
    saturation: float = Field(0.2, ge=0, le=1, description="largest change of saturation")
    hue: float = Field(0.0, ge=0, le=0.5, description="largest turn of hue")
    p: float = Field(1.0, ge=0, le=1, description="share of images changed")

    def transform(self) -> object:
        return _transform("ColorJitter", **{name: getattr(self, name) for name in type(self).model_fields})


class Rotation(ImageStep):
    """Rotate an image about its center by an angle drawn evenly; its size stays (albumentations)."""

    degrees: float = Field(15.0, gt=0, le=180, description="largest angle to either side")
    p: float = Field(1.0, ge=0, le=1, description="share of images rotated")
    fill: int = FILL

    def transform(self) -> object:
        return _transform("Rotate", limit=self.degrees, fill=float(self.fill), p=self.p)


class CoarseDropout(ImageStep):
    """Set several squares at random places to one gray level (albumentations; after DeVries and Taylor 2017)."""

    holes: int = Field(3, ge=1, le=1000, description="squares in an image")
    size: int = Field(8, ge=1, description="side of a square in pixels")
    p: float = Field(1.0, ge=0, le=1, description="share of images changed")
    fill: int = FILL

    def build(self, context: Context) -> CoarseDropout:
        """Raises ValueError for squares that do not fit into the images."""
        height, width = context.image_shape[:2]
        if self.size > min(height, width):
            raise ValueError(f"augment: a square of {self.size} pixels is larger than the {height}x{width} image")
        return self

    def transform(self) -> object:
        side, holes = (self.size, self.size), (self.holes, self.holes)
        given = {"num_holes_range": holes, "hole_height_range": side, "hole_width_range": side}
        return _transform("CoarseDropout", **given, fill=float(self.fill), p=self.p)


def _transform(name: str, **arguments: Any) -> object:
    return Albumentation(name=name, arguments=arguments).transform()
