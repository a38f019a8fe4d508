"""Hdf5: images of your own in one HDF5 file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from core.common.errors import DataError
from core.loading.images import Splits
from data.folder import OwnImages
from data.reading import archive, cache, extras, ingest, labels, layout, packed
from data.reading.decode import MAX_PIXELS
from data.reading.terminal import printable

EXPECTED = (
    "expected: images, uint8 [N, H, W] or [N, H, W, 1 or 3], or the bytes of image files (uint8 of variable length); "
    "labels, [N], whole numbers or names; in groups train, test and perhaps val, or without groups"
)
_AT_ONCE = 8 << 20  # bytes of images that are read at a time


class Hdf5(OwnImages):
    """An HDF5 file of images and labels, given with --root; takes `pip install -e ".[hdf5]"`.

    Images are arrays uint8 [N, H, W] or [N, H, W, 1 or 3], or the bytes of image files. Either groups train, test and
    perhaps val, or the two datasets alone; splits that are lacking are drawn. Labels are names or whole
    numbers; where there is a dataset of class names, numbers from 0 on are places in it.
    """

    images: str = Field("images", min_length=1, description="name of the dataset of images, in each group")
    labels: str = Field("labels", min_length=1, description="name of the dataset of labels, in each group")
    classes: str = Field("classes", min_length=1, description="name of the dataset of class names; may be absent")

    def load(self, root: Path | None) -> Splits:
        if root is None:
            raise DataError(["Hdf5 needs your file: name it with --root PATH", EXPECTED])
        h5py = extras.library("h5py", "hdf5", f"{root} is to be read as HDF5")
        recipe = ingest.Recipe(self.size, skip_unreadable=self.skip_unreadable)

        def build(folder: Path) -> cache.Index:
            with _opened(h5py, root) as file:
                with archive.reading(root):
                    classes, groups = self._groups(h5py, file, root)
                return packed.build(root, classes, groups, recipe, folder)

        fields = f"{self.images} {self.labels} {self.classes} {recipe.skip_unreadable}"
        return self.splits(cache.fetch(f"hdf5 {archive.fingerprint(root)} {recipe.policy} {fields}", build), root)

    def _groups(self, h5py: Any, file: Any, root: Path) -> tuple[list[str], list[packed.Group]]:
        inner = [name for name in file if packed.split_of(name) and isinstance(_get(h5py, file, name), h5py.Group)]
        if inner:
            packed.refuse_groups(root, inner)
        places = {packed.split_of(name) or "": name for name in inner} or {layout.WHOLE: ""}
        wrong: list[str] = []
        images, found = {}, {}
        for split, name in places.items():
            try:
                images[split], found[split] = self._pair(h5py, file, name)
            except DataError as error:
                wrong += error.lines
            except ValueError as error:
                wrong.append(f"{root}: {error}")
        if wrong:
            raise DataError([*wrong, EXPECTED])
        classes, numbers = self._numbered(h5py, file, root, found)
        return classes, [packed.Group(split, numbers[split], partial(_read, images[split])) for split in images]

    def _pair(self, h5py: Any, file: Any, group: str) -> tuple[Any, np.ndarray]:
        """(dataset of images, labels [N] as numbers or text). Raises ValueError."""
        at = f"{group}/" if group else ""
        images, beside = (_get(h5py, file, f"{at}{name}") for name in (self.images, self.labels))
        for name, found in ((self.images, images), (self.labels, beside)):
            if not isinstance(found, h5py.Dataset):
                raise ValueError(
                    f"there is no dataset {at}{name}; it holds {', '.join(map(printable, file)) or 'none'}"
                )
        _refuse_form(h5py, images, f"{at}{self.images}")
        numbers = _values(h5py, beside, f"{at}{self.labels}")
        if len(numbers) != len(images):
            raise ValueError(f"{len(images):,} images in {at}{self.images}, {len(numbers):,} labels beside them")
        return images, numbers

    def _numbered(
        self, h5py: Any, file: Any, root: Path, found: dict[str, np.ndarray]
    ) -> tuple[list[str], dict[str, Any]]:
        """(classes, split -> for each image its position in classes)"""
        if all(values.dtype.kind in "iu" for values in found.values()):
            named = _get(h5py, file, self.classes)
            if isinstance(named, h5py.Dataset):
                return [str(name) for name in _values(h5py, named, self.classes)], found
        classes, wrong = labels.class_names(str(label) for values in found.values() for label in values)
        if wrong:
            raise DataError([f"{root}: {line}" for line in wrong])
        place = {name: label for label, name in enumerate(classes)}
        return list(classes), {split: [place[str(label)] for label in found[split]] for split in found}


def _opened(h5py: Any, root: Path) -> Any:
    try:
        return h5py.File(root, "r", locking="best-effort")  # a lock may be impossible on a network disk
    except OSError as error:
        raise DataError([f"{root} cannot be read as HDF5 ({printable(str(error))})", EXPECTED]) from None


def _get(h5py: Any, file: Any, name: str) -> Any:
    """What a path names within the file; None where nothing. Raises DataError for what leads to other files."""
    found, here = file, []
    for part in filter(None, name.split("/")):
        here.append(part)
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise DataError([f"{file.filename}: {printable('/'.join(here))} is a link; put what it leads to there"])
        found = found[part]
    if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
        raise DataError([f"{file.filename}: {printable(name)} lies in other files; copy it into this one"])
    return found


def _values(h5py: Any, dataset: Any, name: str) -> np.ndarray:
    """[N], whole numbers or text. Raises ValueError."""
    if h5py.check_string_dtype(dataset.dtype) is not None and dataset.ndim == 1:
        return np.asarray(dataset.asstr()[:])
    if dataset.dtype.kind in "iu" and dataset.ndim in (1, 2) and dataset.shape[1:] in ((), (1,)):
        return np.asarray(dataset[:]).reshape(-1)
    told = f"{dataset.dtype} {list(dataset.shape)}"
    raise ValueError(f"{name} is {told}; labels are [N], whole numbers or text")


def _refuse_form(h5py: Any, images: Any, name: str) -> None:
    """Raises ValueError for what are no images."""
    told, shape = f"{name} is {images.dtype} {list(images.shape)}", images.shape
    if h5py.check_vlen_dtype(images.dtype) is not None:
        if h5py.check_vlen_dtype(images.dtype) != np.uint8 or len(shape) != 1:
            raise ValueError(f"{name} holds other things of variable length than bytes; store each file as uint8")
    elif images.dtype != np.uint8:
        raise ValueError(f"{told}; store pixels as uint8, 0 to 255")
    elif len(shape) == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3):
        raise ValueError(f"{told}; channels come last: store [N, H, W, C]")
    elif len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise ValueError(f"{told}; images are [N, H, W] or [N, H, W, 1 or 3]")
    elif not 0 < shape[1] * shape[2] <= MAX_PIXELS:
        raise ValueError(f"{told}; an image has 1 to {MAX_PIXELS:,} pixels")


def _read(images: Any) -> Iterator[ingest.Stored]:
    """Each in turn. By slabs, of whole chunks where the file has any: a chunk is decompressed once."""
    each = int(np.prod(images.shape[1:])) if images.ndim > 1 else _AT_ONCE // 64
    step = max(1, _AT_ONCE // each)
    if images.chunks:
        step = max(1, step // images.chunks[0]) * images.chunks[0]
    for start in range(0, len(images), step):
        for image in images[start : start + step]:
            yield image if images.ndim > 1 else image.tobytes()
