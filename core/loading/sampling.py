"""How often each training image comes, and studies of labels that are wrong and classes that are rare.

All of it is a function of seeds and of the rows of the store: the same image has the same label in any subset.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from core import keys as K
from core.declare.part import Part
from core.loading.images import Images

Order = Callable[[int, int], np.ndarray]


class LongTail(Part):
    """A long-tailed version of the training set (Cui et al. 2019, section 5.1): class i of C, with n_i images, keeps
    n_i * mu^i of them, at least one, where mu = factor^(-1 / (C - 1)). Validation and test stay as they are.
    """

    multi_label: ClassVar[bool] = False

    factor: float = Field(100.0, ge=1, description="size of the first class over that of the last, were they equal")
    seed: int = Field(0, ge=0, lt=2**63, description="chooses the images; independent of the run's seed")

    def __call__(self, images: Images, classes: int) -> Images:
        """Those of the images that stay, in their order."""
        labels = _labels(images, "long_tail")
        order = K.fold(K.key(self.seed, "tail"), images.rows.astype(np.int64))
        stays = np.zeros(len(images), dtype=bool)
        for label in range(classes):
            members = np.flatnonzero(labels == label)
            # a hair more, for 1000 * 100^(-1/2) is 100 and not 99.99...
            count = int(len(members) * self.factor ** (-label / max(1, classes - 1)) + 1e-9)
            stays[members[np.argsort(order[members], kind="stable")[: max(1, count)]]] = True
        return images.take(stays)


class LabelNoise(Part):
    """Symmetric label noise: each training label is, with this probability, replaced by one of the other classes,
    all equally likely (Patrini et al. 2017, section 5.1). Labels wrong at one fraction are so at any larger one.
    """

    multi_label: ClassVar[bool] = False

    fraction: float = Field(0.2, ge=0, le=1, description="share of training labels that are made wrong")
    seed: int = Field(0, ge=0, lt=2**63, description="chooses labels and classes; independent of the run's seed")

    def __call__(self, images: Images, classes: int) -> Images:
        """The same images under the noisy labels."""
        labels = _labels(images, "label_noise")
        if classes < 2:
            raise ValueError("label_noise: there is but one class")
        key = K.fold(K.key(self.seed, "label"), images.rows.astype(np.int64))
        other = (labels + 1 + K.integers(key, "class", classes - 1)) % classes
        return replace(images, targets=np.where(K.uniform(key, "wrong") < self.fraction, other, labels))


class Sampling(Part, ABC):
    """Base of ways to draw an epoch of as many images as the training set has."""

    multi_label: ClassVar[bool] = False

    def over(self, images: Images, classes: int, size: int) -> Order:
        """(seed, epoch) -> positions int64 [N] of these images in the order of that epoch. size: of a batch.

        A pure function: any epoch can be asked for at any time.
        """
        labels = _labels(images, "sampling")
        members = [np.flatnonzero(labels == label) for label in range(classes)]
        return lambda seed, epoch: self.draw(members, size, seed, epoch)

    @abstractmethod
    def draw(self, members: list[np.ndarray], size: int, seed: int, epoch: int) -> np.ndarray:
        """int64 [N], of positions int64 [n_i] of each class."""


class ClassWeighted(Sampling):
    """Draws with replacement: a class with probability n^q / sum n^q, then any of its n images (Kang et al. 2020,
    equation 1). q = 0 is class-balanced, 1/2 the square root, 1 in proportion.
    """

    q: float = Field(0.0, ge=0, le=1, description="power of the class sizes; 0: every class equally often")

    def draw(self, members: list[np.ndarray], size: int, seed: int, epoch: int) -> np.ndarray:
        sizes = np.array([len(m) for m in members], dtype=np.float64)
        weights = np.where(sizes > 0, sizes**self.q, 0.0)
        return _drawn(members, weights, seed, epoch)


class Weighted(Sampling):
    """Draws with replacement: a class with probability in proportion to its weight, then any of its images; as torch's
    WeightedRandomSampler, were each image to weigh its class's weight over the class's count."""

    weights: tuple[float, ...] = Field(description="one for each class, in their order; relative, from 0 on")

    def check(self) -> None:
        if any(weight < 0 for weight in self.weights) or not 0 < sum(self.weights) < float("inf"):
            raise ValueError(f"weights must not be negative, nor add up to 0 or infinity: {self.weights}")

    def draw(self, members: list[np.ndarray], size: int, seed: int, epoch: int) -> np.ndarray:
        return _drawn(members, np.array(self.weights), seed, epoch)

    def over(self, images: Images, classes: int, size: int) -> Order:
        if len(self.weights) != classes:
            raise ValueError(f"sampling.weights: {len(self.weights)} weights for {classes} classes")
        absent = [i for i, n in enumerate(images.counts(classes)) if not n and self.weights[i]]
        if absent:
            raise ValueError(f"sampling.weights: class {absent[0]} has a weight but no training images")
        return super().over(images, classes, size)


class ClassBalanced(Sampling):
    """Batches with equally many images of each class, but for the rest of a division, which goes round the classes.

    Images of a class come in a new permutation each time it has been gone through (class-aware sampling: Shen et al.
    2016).
    """

    def draw(self, members: list[np.ndarray], size: int, seed: int, epoch: int) -> np.ndarray:
        present = [m for m in members if len(m)]
        count = sum(map(len, present))
        # one class after another fills batches evenly: any `size` in a row hold each class equally often, or once more
        classes = np.arange(-(-count // size) * size) % len(present)
        order = np.empty_like(classes)
        for label, mine in enumerate(present):
            slots = np.flatnonzero(classes == label)
            rounds = range(-(-len(slots) // len(mine)))
            turns = [K.permutation(seed, epoch, len(mine), f"class {label} round {turn}") for turn in rounds]
            order[slots] = mine[np.concatenate(turns)[: len(slots)]]
        for first in range(0, len(order), size):
            # within a batch too the order is drawn: neighbors are what is mixed
            shuffled = K.permutation(seed, epoch, size, f"batch {first // size}")
            order[first : first + size] = order[first : first + size][shuffled]
        return order[:count]


def _drawn(members: list[np.ndarray], weights: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """int64 [N]: classes by weight, then any image of the class. N is the number of all images."""
    keys = K.fold(K.key(seed, "draw", epoch), np.arange(sum(map(len, members)), dtype=np.int64))
    bounds = np.cumsum(weights / weights.sum())
    bounds[np.flatnonzero(weights)[-1] :] = 1.0  # whatever rounding left
    classes = np.searchsorted(bounds, K.uniform(keys, "class"), side="right")
    order = np.empty(len(keys), dtype=np.int64)
    for label, mine in enumerate(members):
        slots = np.flatnonzero(classes == label)
        if len(slots):
            order[slots] = mine[K.integers(keys[slots], "member", len(mine))]
    return order


def _labels(images: Images, what: str) -> np.ndarray:
    if images.targets.ndim != 1 or not np.issubdtype(images.targets.dtype, np.integer):
        raise ValueError(f"{what}: needs one class for each image")
    return images.targets
