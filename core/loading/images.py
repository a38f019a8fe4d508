"""Images, Splits and Dataset, the base class of the data sets in data/."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import Field

from core import randomness
from core.common.blocks import Blocks, spans
from core.common.errors import DataError
from core.common.text import did_you_mean, listed
from core.declare.part import Part
from core.loading.stratify import stratified

DECODED = 2048  # number of images used to estimate mean and standard deviation


Box = tuple[int, int, int, int]  # top, left, height, width, in pixels
Order = Callable[[int, int], np.ndarray]


class Pixels(Protocol):
    """Images uint8 [M, H, W, C] that are decoded on access, and indexed like an array: `pixels[rows]`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> np.ndarray: ...

    def crop(self, row: int, choose: Callable[[int, int], Box]) -> np.ndarray:
        """Crop image `row` to the box that `choose(height, width)` returns, and resize it to uint8 [H, W, C]."""
        ...

    def order(self, rows: np.ndarray, size: int, ranks: int) -> Order | None:
        """The order in which `rows` are read efficiently, as a function (seed, epoch) -> permutation of their
        positions, int64 [N]; None if any order is efficient. size: of a batch, which is divided among `ranks`
        processes."""
        ...


@dataclass(frozen=True)
class Images:
    """A subset of stored images, such as a split.

    pixels: uint8 [M, H, W, C], often a memory map shared by several splits; or Pixels, decoded on access.
    rows: int64 [N], the rows of `pixels` in this subset.  targets: int64 [N], classes; or float32 [N, C] of 0 and 1,
    multi-label.
    areas: int64 [M], height x width of the original files; None if all images have the same size.  groups: str [N], the
    group of each image, whose images are never divided among splits; None if the data declare no groups.  weights:
    float64 [N], with which sampling.ImageWeighted draws images, NaN where unknown; None if the data declare no weights.
    """

    pixels: np.ndarray | Pixels
    rows: np.ndarray
    targets: np.ndarray
    areas: np.ndarray | None = None
    groups: np.ndarray | None = None
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __reduce__(self) -> tuple[Any, ...]:
        # a spawned loader worker opens the memory map again; pickling would copy all of it
        file = getattr(self.pixels, "filename", None)
        others = (self.rows, self.targets, self.areas, self.groups, self.weights)
        return (_reopened, (file, *others)) if file else (Images, (self.pixels, *others))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)"""
        height, width, channels = self.pixels.shape[1:]
        return height, width, channels

    def take(self, which: np.ndarray) -> Images:
        """The samples at these positions (int64 or bool)."""
        groups, weights = (None if one is None else one[which] for one in (self.groups, self.weights))
        return replace(self, rows=self.rows[which], targets=self.targets[which], groups=groups, weights=weights)

    def together(self, *others: Images) -> Images:
        """These samples and those of other subsets of the same stored images, sorted by row. Raises DataError if the
        others are stored elsewhere."""
        every = (self, *others)
        if any(other.pixels is not self.pixels for other in others):
            raise DataError(["these splits are stored in separate arrays; keep all images in one, with rows into it"])
        columns = {
            name: np.concatenate([getattr(part, name) for part in every])
            for name in ("rows", "targets", "groups", "weights")
            if getattr(self, name) is not None
        }
        return replace(self, **columns).take(np.argsort(columns["rows"], kind="stable"))

    def order(self, size: int, ranks: int) -> Order | None:
        """As `Pixels.order`; None if the images are already decoded."""
        return None if isinstance(self.pixels, np.ndarray) else self.pixels.order(self.rows, size, ranks)

    def counts(self, classes: int) -> tuple[int, ...]:
        """Number of samples of each class."""
        if self.targets.ndim == 2:
            return tuple(self.targets.sum(axis=0, dtype=np.int64).tolist())
        return tuple(np.bincount(self.targets, minlength=classes).tolist())


@dataclass(frozen=True)
class Splits:
    """The train, val and test splits of a data set. `test` is evaluated once, at the end of a run; model selection uses
    train and val only.

    digest: hash of all images, labels and the decode policy.  source: where the data came from, for display.
    multi_label: an image may have any number of labels, including none, and `classes` are the labels; see
    core/metrics/task.py.  tasks: the blocks of several tasks, whose targets are multi-label ones with at most one 1 in
    a block, and none for an image without a label of this task. Raises DataError for targets that are out of range or
    of the wrong shape or type.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    val: Images
    test: Images
    digest: str
    source: str
    multi_label: bool = False
    tasks: Blocks = ()

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
                found = f"{len(outside):,} of {len(targets):,} labels are outside 0 .. {len(self.classes) - 1}: {first}"
                wrong.append(f"{self.name}, {split}: {found}; labels are indices into `classes`, from 0")
        if wrong:
            raise DataError(wrong)

    def keeping(self, names: Sequence[str]) -> Splits:
        """Keep only the images of these classes, in the order of the data set, as a data set with its own name and
        digest.

        Raises DataError for unknown class names and for fewer than two classes.
        """
        if unknown := [name for name in names if name not in self.classes]:
            known = f"; choose from {', '.join(self.classes[:12])}" + ", ..." * (len(self.classes) > 12)
            raise DataError(
                f"data.only: {name} is not a class of {self.name}{did_you_mean(name, self.classes) or known}"
                for name in unknown
            )
        kept = [label for label, name in enumerate(self.classes) if name in names]
        if len(kept) < 2:
            raise DataError([f"data.only: {', '.join(names)} is a single class; classification needs at least two"])
        classes = tuple(self.classes[label] for label in kept)
        digest = hashlib.sha256("\n".join((self.digest, *classes)).encode()).hexdigest()
        train, val, test = (_relabeled(images, kept) for images in (self.train, self.val, self.test))
        name = f"{self.name}, {len(kept)} classes"
        return Splits(name, classes, train, val, test, digest, self.source)

    def summary(self) -> str:
        """One line with the classes, in the order of their indices, and the size of each split."""
        sizes = ", ".join(f"{split} {len(getattr(self, split)):,}" for split in ("train", "val", "test"))
        kind = "labels" if self.multi_label else "classes"
        what = f"{len(self.classes):,} {kind} ({listed(self.classes)})"
        if self.tasks:
            what = f"{len(self.tasks)} tasks ({', '.join(f'{name} of {n} classes' for name, n in self.tasks)})"
        return f"{self.name}: {what}; {sizes}"

    def _wrong_labels(self, split: str, targets: np.ndarray) -> list[str]:
        shape = (len(targets), len(self.classes))
        if not self.multi_label:
            return [f"{self.name}, {split}: targets are multi-label; pass multi_label=True"]
        if targets.shape != shape or targets.dtype != np.float32 or not np.isin(targets, (0, 1)).all():
            found = f"{targets.dtype} {list(targets.shape)}"
            return [f"{self.name}, {split}: targets are {found}; expected float32 {list(shape)} of 0 and 1"]
        if any((targets[:, columns].sum(axis=1) > 1).any() for _, columns in spans(self.tasks)):
            return [f"{self.name}, {split}: an image has several labels of one task; expected one, or none"]
        return []

    @property
    def unlabeled(self) -> dict[str, int]:
        """{name of a task: number of images, of all splits, without a label of it}."""
        targets = np.concatenate([images.targets for images in (self.train, self.val, self.test)])
        return {name: int((~targets[:, columns].any(axis=1)).sum()) for name, columns in spans(self.tasks)}

    def ordered(self, classes: Sequence[str]) -> Splits:
        """The same images with targets that are indices into `classes`, the order that an earlier run recorded.
        Unchanged if the data have other classes."""
        if tuple(classes) == self.classes or set(classes) != set(self.classes):
            return self
        place = {name: label for label, name in enumerate(classes)}
        now = np.array([place[name] for name in self.classes])

        def relabeled(images: Images) -> Images:
            columns = images.targets.ndim == 2
            return replace(images, targets=images.targets[:, np.argsort(now)] if columns else now[images.targets])

        train, val, test = map(relabeled, (self.train, self.val, self.test))
        return replace(self, classes=tuple(classes), train=train, val=val, test=test)

    def same_as(self, recorded: Mapping[str, Any]) -> bool:
        """Whether these are the images, classes and order of classes that a run recorded."""
        return (self.digest, list(self.classes)) == (recorded["digest"], recorded["classes"])

    def limited(self, n: int) -> Splits:
        """Limit each split to a random subset of at most n samples, with at least one of each class if n allows."""
        return replace(self, train=_first(self.train, n), val=_first(self.val, n), test=_first(self.test, n))


class Dataset(Part, ABC):
    """Base class of data sets. `load` returns the splits; images are downloaded and decoded once into the store."""

    embedded: ClassVar[bool] = False  # installed with a package: needs no download and no root
    several_tasks: ClassVar[bool] = True  # whatever it says of multi_label

    val_fraction: float = Field(
        0.1, gt=0, lt=1, description="fraction of the training images used for validation, stratified"
    )
    split_seed: int = Field(0, ge=0, description="seed of the validation split; independent of the seed of the run")

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of the tasks, if the data have several."""
        return ()

    @abstractmethod
    def load(self, root: Path | None) -> Splits:
        """Load the splits. root: folder of the data; None: the store, downloading if necessary. Raises DataError."""

    def divide(self, images: Images) -> tuple[Images, Images]:
        """Stratified split of the images into (train, val), the same for every run."""
        held = stratified(images.targets, self.val_fraction, self.split_seed)
        return images.take(~held), images.take(held)


def _reopened(file: str, *others: Any) -> Images:
    return Images(np.load(file, mmap_mode="r"), *others)


def _relabeled(images: Images, kept: Sequence[int]) -> Images:
    """Keep the images of the classes `kept`, relabeled to 0, 1, ... in this order."""
    chosen = images.take(np.isin(images.targets, kept))
    return replace(chosen, targets=np.searchsorted(np.array(kept), chosen.targets))


def _first(images: Images, n: int) -> Images:
    if n >= len(images):
        return images
    order = randomness.permutation(0, 0, len(images))
    if images.targets.ndim == 1:
        _, ahead = np.unique(images.targets[order], return_index=True)
        if len(ahead) <= n:  # the first image of each class comes first, which changes nothing for a large n
            order = np.concatenate([order[ahead], np.delete(order, ahead)])
    return images.take(np.sort(order[:n]))
