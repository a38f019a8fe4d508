"""Arrays: your own images and labels in .npy and .npz files."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from pydantic import Field

from core.common.errors import DataError
from core.common.text import few
from core.loading.images import Splits
from data.folder import OwnImages
from data.reading import archive, cache, ingest, labels, layout, packed, weights
from data.reading.disk import as_data_error
from data.reading.items import POLICY, pixels_of
from data.reading.listing import Listing
from data.reading.progress import printable, say
from data.reading.splits import split_of

EXPECTED = (
    "expected: a .npz file, or a folder of .npy files, with arrays such as images and labels, or x_train, y_train, "
    "x_test and y_test"
)
ROLES = {
    **dict.fromkeys(("x", "image", "images", "img", "imgs", "data"), "images"),
    **dict.fromkeys(("y", "label", "labels", "target", "targets"), "labels"),
}

Pair = tuple[str, str]  # names of the arrays of images and of labels


class Arrays(OwnImages):
    """Images and labels as NumPy arrays in a .npz file, or in .npy files of a folder, given with --root.

    Images are uint8, or floats of 0 to 1, [N, H, W], [N, H, W, 1 or 3] or [N, 1 or 3, H, W]; labels are integers or
    names, [N], or 0 and 1 for each label, [N, K], which is multi-label. They are found by the words of their names:
    images (x, data) and labels (y, targets), each with train, val or test, or without; missing splits are created.
    Memory-mapped .npy files may be larger than memory.
    """

    images: str | None = Field(
        None, description="name of the array of all images: a .npy file without its ending; none: found by its name"
    )
    labels: str | None = Field(None, description="name of the array of all labels; none: found by its name")
    weights: str | None = Field(
        None,
        description="name of the array with the weights, 0 or more, with which sampling=ImageWeighted draws the images "
        "of train, or of all; none: no weights",
    )
    classes: tuple[str, ...] = Field(
        (), description="class names, in the order of integer labels from 0; none: the labels themselves"
    )
    rows: tuple[int, int] | None = Field(
        None,
        description="first row that is used, and the one after the last: 40000,50000 is severity 5 of CIFAR-10-C",
    )

    def check(self) -> None:
        super().check()
        if self.rows and not 0 <= self.rows[0] < self.rows[1]:
            raise ValueError(f"rows {self.rows[0]},{self.rows[1]} should be two increasing row numbers, from 0")

    def load(self, root: Path | None) -> Splits:
        if root is None:
            raise DataError(["Arrays needs the path of your arrays: add --root PATH", EXPECTED])
        recipe = self.recipe(skip_unreadable=self.skip_unreadable)

        def build(folder: Path) -> cache.Index:
            return packed.build(root, *self._groups(root), recipe, folder)

        fields = f"{self.images} {self.labels} {self.classes} {self.rows} {POLICY}"
        cached = cache.fetch(f"arrays {archive.fingerprint(root)} {recipe.policy} {fields}", build)
        splits = self.splits(cached, root)
        if self.weights is None:
            return splits
        given = weights.read(root, self.weights)[slice(*self.rows or (None,))]
        return weights.weighted(splits, cached.index, given, f"{root}: {self.weights}")

    def listed(self, root: Path, refuse: archive.Refuse) -> Listing:
        classes, groups = self._groups(root)
        return packed.listed(type(self).__name__, root, classes, groups, lambda: packed.contents_of(root, groups))

    def _groups(self, root: Path) -> tuple[list[str], list[packed.Group]]:
        stored = _opened(root)
        wrong: list[str] = []
        images, numbers = {}, {}
        for split, (name, label_name) in self._pairs(root, stored).items():
            try:
                images[split], numbers[split] = self._pair(stored, name, label_name)
            except ValueError as error:
                wrong.append(f"{root}: {error}")
        if wrong:
            raise DataError([*wrong, EXPECTED])
        classes = list(self.classes)
        if any(values.ndim == 2 for values in numbers.values()):
            classes, wrong = self._label_names(numbers)
        elif not classes:
            named, wrong = labels.class_names(str(label) for values in numbers.values() for label in values)
            place = {name: label for label, name in enumerate(named)}
            numbers = {split: np.array([place[str(label)] for label in values]) for split, values in numbers.items()}
            classes = list(named)
        elif texts := [split for split, values in numbers.items() if values.dtype.kind not in "iu"]:
            wrong = [f"{texts[0] or 'labels'} are names; leave out --data.classes, which names integers"]
        if wrong:
            raise DataError([f"{root}: {line}" for line in wrong])
        return classes, [
            packed.Group(
                split, numbers[split].tolist(), partial(_read, images[split], f"{root.name}: {split or 'row'}")
            )
            for split in images
        ]

    def _label_names(self, numbers: Mapping[str, np.ndarray]) -> tuple[list[str], list[str]]:
        """(the names of the labels of multi-label arrays, an error line for arrays that do not fit together)"""
        shapes = {values.shape[1] if values.ndim == 2 else 1 for values in numbers.values()}
        classes = list(self.classes) or [str(label) for label in range(max(shapes))]
        if len(shapes) > 1:
            found = ", ".join(f"{split} {list(values.shape)}" for split, values in numbers.items())
            return classes, [f"the labels of the splits differ: {found}"]
        if {len(classes)} != shapes:
            return classes, [f"{len(classes)} names in --data.classes for {shapes.pop()} labels of each image"]
        if all((values.sum(axis=1) == 1).all() for values in numbers.values()):
            say("each image has one of the labels, which are taken as multi-label; for one class, save argmax(axis=1)")
        return classes, []

    def _pairs(self, root: Path, stored: Mapping[str, Any]) -> dict[str, Pair]:
        """Split -> the names of its arrays. Raises DataError."""
        found: dict[tuple[str, str], list[str]] = {}
        for name in stored:
            words = re.split(r"[^0-9A-Za-z]+", name)
            roles = [ROLES[word.lower()] for word in words if word.lower() in ROLES]
            split = next(filter(None, map(split_of, words)), layout.WHOLE)
            if roles:
                found.setdefault((split, "labels" if "labels" in roles else "images"), []).append(name)
        for role, given in (("images", self.images), ("labels", self.labels)):
            if given:
                found = {key: names for key, names in found.items() if key[1] != role}
                found[layout.WHOLE, role] = [given]
        has = f"{root} has the arrays {few(sorted(stored))}"
        for (_, role), names in found.items():
            if len(names) > 1:
                line = f"{has}; {' and '.join(map(printable, names))} may be the {role}; choose one with"
                raise DataError([f"{line} --data.{role} NAME"])
        splits = sorted({split for split, _ in found})
        if self.images:
            splits = [layout.WHOLE]
        pairs = {split: [found.get((split, role), [""])[0] for role in ("images", "labels")] for split in splits}
        if not pairs:
            raise DataError([f"{has}; name them with --data.images NAME and --data.labels NAME", EXPECTED])
        wrong = [
            f"{has}, but no {role}" + (f" of {split}" if split != layout.WHOLE else "")
            for split, pair in pairs.items()
            for role, name in zip(("images", "labels"), pair, strict=True)
            if name not in stored
        ]
        if not wrong and layout.WHOLE not in pairs and "train" not in pairs:
            wrong = [f"{has}, but none of train"]
        if wrong:
            raise DataError([*wrong, EXPECTED])
        return {split: (pair[0], pair[1]) for split, pair in pairs.items()}

    def _pair(self, stored: Mapping[str, Any], name: str, label_name: str) -> tuple[np.ndarray, np.ndarray]:
        """(images [N, ...], labels [N] or [N, K]). Raises ValueError."""
        images, values = stored[name], stored[label_name]
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        shapes = [
            f"{each} is {array.dtype} {list(array.shape)}" for each, array in ((name, images), (label_name, values))
        ]
        if images.ndim not in (3, 4):
            raise ValueError(f"{shapes[0]}; images are [N, H, W], [N, H, W, 1 or 3] or [N, 1 or 3, H, W]")
        several = values.ndim == 2 and values.dtype.kind in "iufb"
        if several and len(other := np.argwhere((values != 0) & (values != 1))):
            at = ", ".join(map(str, other[0]))
            raise ValueError(f"{shapes[1]} with {values[tuple(other[0])]:g} at [{at}]; labels [N, K] are 0 and 1")
        if not several and (values.ndim != 1 or values.dtype.kind not in "iuUS"):
            raise ValueError(f"{shapes[1]}; labels are [N], integers or names, or [N, K], 0 and 1")
        if len(images) != len(values):
            raise ValueError(f"{shapes[0]} and {shapes[1]}; there must be a label for each image")
        if self.rows and self.rows[1] > len(images):
            raise ValueError(f"{shapes[0]}; --data.rows {self.rows[0]},{self.rows[1]} goes beyond its end")
        chosen = slice(*self.rows) if self.rows else slice(None)
        values = values.astype(str) if values.dtype.kind == "S" else values
        return images[chosen], values[chosen].astype(int) if several else values[chosen]


def _opened(root: Path) -> Mapping[str, Any]:
    """The arrays of a file or folder by their names. Raises DataError."""
    try:
        with as_data_error(root):
            if root.is_dir():
                paths = sorted(root.glob("*.npy"))
                return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in paths}
            stored = np.load(root, allow_pickle=False)
            return dict(stored) if isinstance(stored, np.lib.npyio.NpzFile) else {root.stem: stored}
    except (ValueError, EOFError, KeyError, BadZipFile, zlib.error) as error:
        raise DataError([f"{root} cannot be read as arrays ({printable(str(error))[:200]})", EXPECTED]) from None


def _read(images: np.ndarray, name: str) -> Iterator[ingest.Stored]:
    for row in range(len(images)):
        yield pixels_of(np.asarray(images[row]), f"{name}, image {row}")
