"""Sampling of training images, and studies of class imbalance and label noise.

All of them are functions of seeds and of the rows of the store: an image has the same noisy label in any subset.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from core import randomness as K
from core.declare.part import Part
from core.loading.images import Images

Order = Callable[[int, int], np.ndarray]


class LongTail(Part):
    """A long-tailed version of the training set (Cui et al. 2019, section 5.1): class i of C, with n_i images, keeps
    n_i * mu^i of them, at least one, where mu = factor^(-1 / (C - 1)). Validation and test splits are unchanged.
    """

    multi_label: ClassVar[bool] = False

    factor: float = Field(
        100.0, ge=1, description="imbalance factor: fraction kept of the first class over that of the last"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the choice of images; independent of the seed of the run")

    def __call__(self, images: Images, classes: int) -> Images:
        """The images that are kept, in their order."""
        labels = _labels(images, "long_tail")
        order = K.fold(K.key(self.seed, "tail"), images.rows.astype(np.int64))
        kept = np.zeros(len(images), dtype=bool)
        for label in range(classes):
            members = np.flatnonzero(labels == label)
            # avoid rounding down: 1000 * 100^(-1/2) is 100 and not 99.99...
            count = int(len(members) * self.factor ** (-label / max(1, classes - 1)) + 1e-9)
            kept[members[np.argsort(order[members], kind="stable")[: max(1, count)]]] = True
        return images.take(kept)


class LabelNoise(Part):
    """Symmetric label noise: each training label is, with this probability, replaced by one of the other classes, all
    equally likely (Patrini et al. 2017, section 5.1). Labels that are wrong at one fraction are wrong at any larger
    one.
    """

    multi_label: ClassVar[bool] = False

    fraction: float = Field(0.2, ge=0, le=1, description="fraction of training labels that are replaced")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the noise; independent of the seed of the run")

    def __call__(self, images: Images, classes: int) -> Images:
        """The same images with noisy labels."""
        labels = _labels(images, "label_noise")
        if classes < 2:
            raise ValueError("label_noise: needs at least two classes")
        key = K.fold(K.key(self.seed, "label"), images.rows.astype(np.int64))
        other = (labels + 1 + K.integers(key, "class", classes - 1)) % classes
        return replace(images, targets=np.where(K.uniform(key, "wrong") < self.fraction, other, labels))


class Sampling(Part, ABC):
    """Base class of samplers, which draw as many images per epoch as the training set has."""

    multi_label: ClassVar[bool] = False

    @abstractmethod
    def over(self, images: Images, classes: int, size: int) -> Order:
        """Build the pure function (seed, epoch) -> positions int64 [N] of the images of that epoch, in order. size: of
        a batch. Raises ValueError if it does not fit the images.
        """


class ByClass(Sampling, ABC):
    """Base class of samplers that draw images by their class."""

    def over(self, images: Images, classes: int, size: int) -> Order:
        """As `Sampling.over`. Raises ValueError for multi-label images."""
        labels = _labels(images, "sampling")
        members = [np.flatnonzero(labels == label) for label in range(classes)]
        return lambda seed, epoch: self.draw(members, size, seed, epoch)

    @abstractmethod
    def draw(self, members: list[np.ndarray], size: int, seed: int, epoch: int) -> np.ndarray:
        """Draw an epoch, int64 [N], from the positions int64 [n_i] of each class."""


class ClassWeighted(ByClass):
    """Draws with replacement: a class with probability n^q / sum n^q, then any of its n images (Kang et al. 2020,
    equation 1). q = 0 is class-balanced, 1/2 the square root, 1 in proportion.
    """

    q: float = Field(0.0, ge=0, le=1, description="exponent of the class sizes; 0: all classes are drawn equally often")

    def draw(self, members: list[np.ndarray], size: int, seed: int, epoch: int) -> np.ndarray:
        sizes = np.array([len(m) for m in members], dtype=np.float64)
        weights = np.where(sizes > 0, sizes**self.q, 0.0)
        return _drawn(members, weights, seed, epoch)


class Weighted(ByClass):
    """Draws with replacement: a class with probability proportional to its weight, then any of its images. Equivalent
    to torch's WeightedRandomSampler if the weight of each image is the weight of its class divided by the class
    count."""

    weights: tuple[float, ...] = Field(description="non-negative relative weight of each class, in order")

    def check(self) -> None:
        if any(weight < 0 for weight in self.weights) or not 0 < sum(self.weights) < float("inf"):
            raise ValueError(f"weights must be non-negative, with a positive and finite sum: {self.weights}")

    def draw(self, members: list[np.ndarray], size: int, seed: int, epoch: int) -> np.ndarray:
        return _drawn(members, np.array(self.weights), seed, epoch)

    def over(self, images: Images, classes: int, size: int) -> Order:
        if len(self.weights) != classes:
            raise ValueError(f"sampling.weights: {len(self.weights)} weights for {classes} classes")
        absent = [i for i, n in enumerate(images.counts(classes)) if not n and self.weights[i]]
        if absent:
            raise ValueError(f"sampling.weights: class {absent[0]} has a weight but no training images")
        return super().over(images, classes, size)


class ClassBalanced(ByClass):
    """Batches with equally many images of each class; a remainder is distributed over the classes in turn.

    Each pass over the images of a class is a new permutation (class-aware sampling: Shen et al. 2016).
    """

    def draw(self, members: list[np.ndarray], size: int, seed: int, epoch: int) -> np.ndarray:
        present = [m for m in members if len(m)]
        count = sum(map(len, present))
        # cycling through the classes balances batches: `size` consecutive samples contain each class equally often, or
        # once more
        classes = np.arange(-(-count // size) * size) % len(present)
        order = np.empty_like(classes)
        for label, own in enumerate(present):
            slots = np.flatnonzero(classes == label)
            rounds = range(-(-len(slots) // len(own)))
            turns = [K.permutation(seed, epoch, len(own), f"class {label} round {turn}") for turn in rounds]
            order[slots] = own[np.concatenate(turns)[: len(slots)]]
        for first in range(0, len(order), size):
            # shuffle within a batch, because neighbors are mixed
            shuffled = K.permutation(seed, epoch, size, f"batch {first // size}")
            order[first : first + size] = order[first : first + size][shuffled]
        return order[:count]


class ImageWeighted(Sampling):
    """Draws with replacement: each image with probability proportional to its weight, as torch's WeightedRandomSampler
    does. The weights are those of the data: weight_column of ImageTable, weights of Arrays and TorchDataset."""

    multi_label: ClassVar[bool] = True

    def over(self, images: Images, classes: int, size: int) -> Order:
        """As `Sampling.over`. Raises ValueError for weights that are unknown, invalid or all 0."""
        weights = images.weights
        if weights is None:
            how = "data.weight_column of a table, data.weights of arrays or of a data set of torch"
            raise ValueError(f"sampling: ImageWeighted needs a weight for each image; set {how}")
        if unknown := int(np.isnan(weights).sum()):
            raise ValueError(f"sampling: {unknown:,} of {len(weights):,} training images have no weight")
        if (weights < 0).any() or not 0 < weights.sum() < float("inf"):
            raise ValueError("sampling: the weights of the training images must be non-negative, with a positive sum")
        bounds = np.cumsum(weights / weights.sum())
        bounds[np.flatnonzero(weights)[-1] :] = 1.0  # correct for rounding

        def order(seed: int, epoch: int) -> np.ndarray:
            keys = K.fold(K.key(seed, "draw", epoch), np.arange(len(weights), dtype=np.int64))
            # two draws of 24 bits, because one cannot tell more images apart than that
            place = K.uniform(keys, "image").astype(np.float64) + K.uniform(keys, "image, finer") * 2.0**-24
            return np.searchsorted(bounds, place, side="right")

        return order


def _drawn(members: list[np.ndarray], weights: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Draw a class by weight, then any image of that class, int64 [N], where N is the number of all images."""
    keys = K.fold(K.key(seed, "draw", epoch), np.arange(sum(map(len, members)), dtype=np.int64))
    bounds = np.cumsum(weights / weights.sum())
    bounds[np.flatnonzero(weights)[-1] :] = 1.0  # correct for rounding
    classes = np.searchsorted(bounds, K.uniform(keys, "class"), side="right")
    order = np.empty(len(keys), dtype=np.int64)
    for label, own in enumerate(members):
        slots = np.flatnonzero(classes == label)
        if len(slots):
            order[slots] = own[K.integers(keys[slots], "member", len(own))]
    return order


def _labels(images: Images, what: str) -> np.ndarray:
    if images.targets.ndim != 1 or not np.issubdtype(images.targets.dtype, np.integer):
        raise ValueError(f"{what}: supports only single-label images")
    return images.targets
