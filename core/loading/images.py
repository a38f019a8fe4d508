"""Images, Splits, and Dataset, the base of what data/ offers."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import Field

from core import keys
from core.common.errors import DataError
from core.common.text import did_you_mean
from core.declare.part import Part
from core.loading.stratify import stratified

DECODED = 2048  # images that tell the mean and deviation of all


Box = tuple[int, int, int, int]  # top, left, height, width, in pixels
Order = Callable[[int, int], np.ndarray]


class Pixels(Protocol):
    """uint8 [M, H, W, C] that are decoded when they are asked for. Part by part like an array: `pixels[rows]`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> np.ndarray: ...

    def crop(self, row: int, choose: Callable[[int, int], Box]) -> np.ndarray:
        """uint8 [H, W, C]: the box that `choose(height, width)` of the whole image names, resized."""
        ...

    def order(self, rows: np.ndarray, size: int, ranks: int) -> Order | None:
        """(seed, epoch) -> positions in `rows` (int64 [N]), a permutation in which these rows are best read: batches of
        `size`, of which each of the ranks takes its share. None: any order is as good."""
        ...


@dataclass(frozen=True)
class Images:
    """Some rows of a store of images.

    pixels: uint8 [M, H, W, C], often a memory map shared by several splits; or what decodes them when asked.
    rows: int64 [N], the rows of `pixels` that belong here.  targets: int64 [N], the class of each; or float32 [N, C] of
    0 and 1, several labels at a time.
    areas: int64 [M], height x width of the files that the pixels were made of; None where all have one size.
    """

    pixels: np.ndarray | Pixels
    rows: np.ndarray
    targets: np.ndarray
    areas: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __reduce__(self) -> tuple[Any, ...]:
        # a spawned loader worker opens the memory map again: pickled, it would be copied whole
        file = getattr(self.pixels, "filename", None)
        if file:
            return _reopened, (file, self.rows, self.targets, self.areas)
        return Images, (self.pixels, self.rows, self.targets, self.areas)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)"""
        height, width, channels = self.pixels.shape[1:]
        return height, width, channels

    def take(self, which: np.ndarray) -> Images:
        """The samples at these positions (int64 or bool)."""
        return replace(self, rows=self.rows[which], targets=self.targets[which])

    def order(self, size: int, ranks: int) -> Order | None:
        """As `Pixels` has it; None, too, where all are decoded."""
        return None if isinstance(self.pixels, np.ndarray) else self.pixels.order(self.rows, size, ranks)

    def counts(self, classes: int) -> tuple[int, ...]:
        """How many samples each class has."""
        if self.targets.ndim == 2:
            return tuple(self.targets.sum(axis=0, dtype=np.int64).tolist())
        return tuple(np.bincount(self.targets, minlength=classes).tolist())


@dataclass(frozen=True)
class Splits:
    """A data set, ready to train on. `test` is read once, at the end of a run; selection sees train and val only.

    digest: names the content of all images, labels and the decode policy.  source: where they came from, for people.
    multi_label: an image may have any number of labels, including none; `classes` are these labels; which task that
    makes, core/metrics/task.py knows. Raises DataError for targets that name no class, or are not of this kind.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    val: Images
    test: Images
    digest: str
    source: str
    multi_label: bool = False

    def __post_init__(self) -> None:
        wrong = []
        for split in ("train", "val", "test"):
            targets = getattr(self, split).targets
            if self.multi_label or targets.ndim != 1:
                wrong += self._wrong_labels(split, targets)
                continue
            outside = np.flatnonzero((targets < 0) | (targets >= len(self.classes)))
            if len(outside):
                first = ", ".join(f"image {i} has {targets[i]}" for i in outside[:3].tolist())
                told = f"{len(outside):,} of {len(targets):,} labels are outside 0 .. {len(self.classes) - 1}: {first}"
                wrong.append(f"{self.name}, {split}: {told}; labels count from 0 and index `classes`")
        if wrong:
            raise DataError(wrong)

    def keeping(self, names: Sequence[str]) -> Splits:
        """The images of these classes alone, in the data set's order; another data set, by its name and digest.

        Raises DataError for names that are no class, and for fewer than two.
        """
        if unknown := [name for name in names if name not in self.classes]:
            there = f"; there are {', '.join(self.classes[:12])}" + ", ..." * (len(self.classes) > 12)
            told = (f"{name}{did_you_mean(name, self.classes) or there}" for name in unknown)
            raise DataError([f"data.only: {self.name} has no class {each}" for each in told])
        kept = [label for label, name in enumerate(self.classes) if name in names]
        if len(kept) < 2:
            raise DataError([f"data.only: {', '.join(names)} is one class; classification takes two"])
        classes = tuple(self.classes[label] for label in kept)
        digest = hashlib.sha256("\n".join((self.digest, *classes)).encode()).hexdigest()
        train, val, test = (_relabeled(images, kept) for images in (self.train, self.val, self.test))
        name = f"{self.name}, {len(kept)} classes"
        return Splits(name, classes, train, val, test, digest, self.source)

    def _wrong_labels(self, split: str, targets: np.ndarray) -> list[str]:
        shape = (len(targets), len(self.classes))
        if not self.multi_label:
            return [f"{self.name}, {split}: targets of several labels at a time; declare multi_label=True"]
        if targets.shape != shape or targets.dtype != np.float32 or not np.isin(targets, (0, 1)).all():
            told = f"{targets.dtype} {list(targets.shape)}, not float32 {list(shape)} of 0 and 1"
            return [f"{self.name}, {split}: targets are {told}"]
        return []

    def limited(self, n: int) -> Splits:
        """At most n samples of each split, its classes in proportion."""
        return replace(self, train=_first(self.train, n), val=_first(self.val, n), test=_first(self.test, n))


class Dataset(Part, ABC):
    """A declared data set. `load` gives its splits, downloading and decoding once into the store."""

    embedded: ClassVar[bool] = False  # comes with the installation: no download, no root

    val_fraction: float = Field(0.1, gt=0, lt=1, description="share of train held out for validation, in each class")
    split_seed: int = Field(0, ge=0, description="fixes the validation split; independent of the run's seed")

    @abstractmethod
    def load(self, root: Path | None) -> Splits:
        """Its splits. root: where the user put the data; None: the store, downloading at need. Raises DataError."""

    def divide(self, images: Images) -> tuple[Images, Images]:
        """(train, val) of the images that are not test, stratified, the same for every run."""
        held = stratified(images.targets, self.val_fraction, self.split_seed)
        return images.take(~held), images.take(held)


def _reopened(file: str, *others: Any) -> Images:
    return Images(np.load(file, mmap_mode="r"), *others)


def _relabeled(images: Images, kept: Sequence[int]) -> Images:
    """Those of the classes `kept`, which become 0, 1, ... in this order."""
    chosen = images.take(np.isin(images.targets, kept))
    return replace(chosen, targets=np.searchsorted(np.array(kept), chosen.targets))


def _first(images: Images, n: int) -> Images:
    if n >= len(images):
        return images
    return images.take(np.sort(keys.permutation(0, 0, len(images))[:n]))
