"""Folds of a cross-validation: which of the images for training and validation a run is validated on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from core import randomness as K
from core.common.errors import DataError
from core.declare.part import Part
from core.loading.images import Images, Splits
from core.loading.stratify import dealt, divided
from core.metrics.answers import identity

CHUNK = 4096  # images that are decoded at once for their ids


class Fold(Part):
    """One fold of a stratified k-fold cross-validation (Kohavi 1995, section 2.2). The train and val splits are joined
    and divided into folds: this fold is the val split, all others are the train split. The test split is unchanged.

    A partition is a function of the content of the images, their labels and their groups, and of `repeat`: it is the
    same on every machine, whatever the order of the files. Images of a group are in the same fold; without groups,
    identical images are.
    """

    folds: int = Field(5, ge=2, description="number of folds")
    number: int = Field(1, ge=1, description="the fold that is the val split, from 1")
    repeat: int = Field(1, ge=1, description="which partition into folds, from 1")

    def check(self) -> None:
        if self.number > self.folds:
            raise ValueError(f"number {self.number} is more than the {self.folds} folds")

    def __call__(self, splits: Splits) -> Splits:
        """The splits of this fold. Raises DataError if there are too few groups, or images of a class."""
        pool = splits.train.together(splits.val)
        held = partition(pool, splits.classes, self.folds, self.repeat) == self.number - 1
        return replace(splits, train=pool.take(~held), val=pool.take(held))


@dataclass(frozen=True)
class Folds:
    """All folds of one or more partitions.  count: folds of each.  repeats: number of partitions."""

    count: int
    repeats: int = 1

    @classmethod
    def read(cls, text: str) -> Folds:
        """Folds from text such as 5 or 5x4. Raises ValueError."""
        found = re.fullmatch(r"([1-9][0-9]{0,3})(?:x([1-9][0-9]{0,3}))?", text)
        if not found or int(found[1]) < 2:
            expected = "the number of folds, at least 2, or folds x repetitions, as 5x4"
            raise ValueError(f"should be {expected} (got {text!r})")
        return cls(int(found[1]), int(found[2] or 1))

    @property
    def overlap(self) -> float:
        """Number of images in a val split divided by that in its train split."""
        return 1 / (self.count - 1)

    def __str__(self) -> str:
        return f"{self.count}x{self.repeats}" if self.repeats > 1 else str(self.count)

    def __iter__(self) -> Iterator[Fold]:
        for repeat in range(1, self.repeats + 1):
            for number in range(1, self.count + 1):
                yield Fold(folds=self.count, number=number, repeat=repeat)


def partition(images: Images, classes: tuple[str, ...], folds: int, repeat: int) -> np.ndarray:
    """The fold of each image, int64 [N], from 0. Raises DataError if there are too few images or groups."""
    ids = _contents(images)
    place = np.unique(ids if images.groups is None else images.groups, return_inverse=True)[1]
    _refuse_few(images, classes, folds, place)
    keys = np.zeros(place.max() + 1, np.int64)
    np.add.at(keys, place, K.mix(ids))  # a sum does not depend on the order
    keys = K.fold(K.key(0, "folds", repeat), keys)
    if images.groups is not None or images.targets.ndim == 2:
        return divided(images.targets, place, keys, folds)
    labels = np.full(len(keys), len(classes))
    np.minimum.at(labels, place, images.targets)  # of identical images, which may have different labels
    return dealt(labels, keys, folds)[place]


def _contents(images: Images) -> np.ndarray:
    """A number for the content of each image, int64 [N], equal for identical images."""
    found: list[str] = []
    for start in range(0, len(images), CHUNK):
        found += [identity(image) for image in images.pixels[images.rows[start : start + CHUNK]]]
    return np.frombuffer(bytes.fromhex("".join(found)), ">i8").astype(np.int64)


def _refuse_few(images: Images, classes: tuple[str, ...], folds: int, place: np.ndarray) -> None:
    """Raises DataError if a fold would be empty or lack a class, or if a class would be lacking in training."""
    units = int(place.max()) + 1
    what = "different images" if images.groups is None else "groups"
    wrong = [f"folds: {folds} folds of {units:,} {what}; use at most {units:,}"] if units < folds else []
    for label, name in enumerate(classes if images.targets.ndim == 1 else ()):
        of_class = images.targets == label
        if (count := int(of_class.sum())) < folds:
            wrong.append(f"folds: {name} has {count:,} images for training and validation, fewer than {folds} folds")
        elif len(np.unique(place[of_class])) == 1:
            why = "identical" if images.groups is None else "one group"
            wrong.append(f"folds: all images of {name} are {why}, so that a fold would be trained without them")
    if wrong:
        raise DataError(wrong)
