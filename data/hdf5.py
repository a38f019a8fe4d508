"""Hdf5: your own images in one HDF5 file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from core.common import extras
from core.common.errors import DataError
from core.loading.images import Splits
from data.folder import OwnImages
from data.reading import archive, cache, ingest, labels, layout, packed
from data.reading.decode import MAX_PIXELS
from data.reading.listing import Listing
from data.reading.progress import printable
from data.reading.splits import split_of

EXPECTED = (
    "expected: images, uint8 [N, H, W] or [N, H, W, 1 or 3], or the contents of image files (variable-length uint8); "
    "labels, [N], integers or names; in the groups train, test and optionally val, or without groups"
)
_AT_ONCE = 8 << 20  # bytes of images that are read at a time


class Hdf5(OwnImages):
    """Images and labels in an HDF5 file given with --root; requires `pip install -e ".[hdf5]"`.

    Images are arrays, uint8 [N, H, W] or [N, H, W, 1 or 3], or the contents of image files. The two HDF5 datasets are
    in the groups train, test and optionally val, or directly in the file; missing splits are created. Labels are class
    names or integers. If the file has an HDF5 dataset of class names, integer labels are indices into it, from 0.
    """

    images: str = Field("images", min_length=1, description="name of the HDF5 dataset of images, in each group")
    labels: str = Field("labels", min_length=1, description="name of the HDF5 dataset of labels, in each group")
    classes: str = Field(
        "classes", min_length=1, description="name of the HDF5 dataset of class names, if there is one"
    )

    def load(self, root: Path | None) -> Splits:
        if root is None:
            raise DataError(["Hdf5 needs the path of your HDF5 file: add --root PATH", EXPECTED])
        h5py = extras.library("h5py", "hdf5", f"reading {root} as HDF5")
        recipe = self.recipe(skip_unreadable=self.skip_unreadable)

        def build(folder: Path) -> cache.Index:
            with _opened(h5py, root) as file:
                with archive.reading(root):
                    classes, groups = self._groups(h5py, file, root)
                return packed.build(root, classes, groups, recipe, folder)

        fields = f"{self.images} {self.labels} {self.classes} {recipe.skip_unreadable}"
        key = f"{layout.VERSION} hdf5 {archive.fingerprint(root)} {recipe.policy} {fields}"
        return self.splits(cache.fetch(key, build), root)

    def listed(self, root: Path, refuse: archive.Refuse) -> Listing:
        h5py = extras.library("h5py", "hdf5", f"reading {root} as HDF5")

        def contents() -> Iterator[ingest.Stored]:
            with _opened(h5py, root) as file, archive.reading(root):
                yield from packed.contents_of(root, self._groups(h5py, file, root)[1])

        with _opened(h5py, root) as file, archive.reading(root):
            return packed.listed(type(self).__name__, root, *self._groups(h5py, file, root), contents)

    def _groups(self, h5py: Any, file: Any, root: Path) -> tuple[list[str], list[packed.Group]]:
        inner = [name for name in file if split_of(name) and isinstance(_get(h5py, file, name), h5py.Group)]
        if inner:
            packed.refuse_groups(root, inner)
        places = {split_of(name) or "": name for name in inner} or {layout.WHOLE: ""}
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
        """(HDF5 dataset of images, labels [N] as integers or text) of a group. Raises ValueError."""
        at = f"{group}/" if group else ""
        images, targets = (_get(h5py, file, f"{at}{name}") for name in (self.images, self.labels))
        for role, name, found in (("images", self.images, images), ("labels", self.labels, targets)):
            if not isinstance(found, h5py.Dataset):
                raise ValueError(
                    f"the file has no dataset {at}{name}, it has {', '.join(map(printable, file)) or 'none'}; name the "
                    f"dataset of {role} with --data.{role} NAME"
                )
        _refuse_form(h5py, images, f"{at}{self.images}")
        numbers = _values(h5py, targets, f"{at}{self.labels}")
        if len(numbers) != len(images):
            raise ValueError(
                f"{at}{self.images} has {len(images):,} images, but {at}{self.labels} has {len(numbers):,} labels"
            )
        return images, numbers

    def _numbered(
        self, h5py: Any, file: Any, root: Path, found: dict[str, np.ndarray]
    ) -> tuple[list[str], dict[str, Any]]:
        """(class names, split -> class index of each image)"""
        if all(values.dtype.kind in "iu" for values in found.values()):
            named = _get(h5py, file, self.classes)
            if isinstance(named, h5py.Dataset):
                return [str(name) for name in _values(h5py, named, self.classes)], found
        classes, wrong = labels.class_names(str(label) for values in found.values() for label in values)
        if wrong:
            raise DataError([f"{root}: {line}" for line in wrong])
        place = {name: label for label, name in enumerate(classes)}
        return list(classes), {split: [place[str(label)] for label in found[split]] for split in found}


def unlabeled(root: Path, name: str) -> Iterator[tuple[str, ingest.Stored]]:
    """(place, image) of all images of an HDF5 file, whose HDF5 dataset of images has this name, in the file or in its
    groups. The place is FILE:INDEX, or FILE:GROUP/INDEX in groups. Raises DataError."""
    h5py = extras.library("h5py", "hdf5", f"reading {root} as HDF5")
    with _opened(h5py, root) as file, archive.reading(root):
        groups = [each for each in file if isinstance(_get(h5py, file, f"{each}/{name}"), h5py.Dataset)]
        found = {f"{each}/": _get(h5py, file, f"{each}/{name}") for each in groups}
        if isinstance(whole := _get(h5py, file, name), h5py.Dataset):
            found = {"": whole} | found
        if not found:
            has = ", ".join(map(printable, file)) or "none"
            raise DataError([f"{root}: no HDF5 dataset {name}, the file has {has}; name it with --data.images NAME"])
        for at, images in found.items():
            try:
                _refuse_form(h5py, images, f"{at}{name}")
            except ValueError as error:
                raise DataError([f"{root}: {error}"]) from None
            for index, image in enumerate(_read(images)):
                yield f"{root}:{at}{index}", image


def _opened(h5py: Any, root: Path) -> Any:
    try:
        return h5py.File(root, "r", locking="best-effort")  # network file systems may not support locks
    except OSError as error:
        raise DataError([f"{root} cannot be read as an HDF5 file ({printable(str(error))})", EXPECTED]) from None


def _get(h5py: Any, file: Any, name: str) -> Any:
    """The object at a path within the file, or None. Raises DataError for links and data in other files."""
    found, here = file, []
    for part in filter(None, name.split("/")):
        here.append(part)
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            link_name = printable("/".join(here))
            raise DataError([f"{file.filename}: {link_name} is a link; replace it by the object that it points to"])
        found = found[part]
    if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
        raise DataError([f"{file.filename}: {printable(name)} is stored in other files; copy the data into this file"])
    return found


def _values(h5py: Any, dataset: Any, name: str) -> np.ndarray:
    """The values of a dataset, [N], integers or text. Raises ValueError."""
    if h5py.check_string_dtype(dataset.dtype) is not None and dataset.ndim == 1:
        texts: np.ndarray = dataset.asstr()[:]
        return texts
    if dataset.dtype.kind in "iu" and dataset.ndim in (1, 2) and dataset.shape[1:] in ((), (1,)):
        values: np.ndarray = dataset[:].reshape(-1)
        return values
    raise ValueError(f"{name} is {dataset.dtype} {list(dataset.shape)}; labels must be [N], integers or text")


def _refuse_form(h5py: Any, images: Any, name: str) -> None:
    """Raises ValueError if a dataset does not contain images."""
    found, shape = f"{name} is {images.dtype} {list(images.shape)}", images.shape
    if h5py.check_vlen_dtype(images.dtype) is not None:
        if h5py.check_vlen_dtype(images.dtype) != np.uint8 or len(shape) != 1:
            raise ValueError(f"{name} has variable-length elements that are not bytes; store each file as uint8")
    elif images.dtype != np.uint8:
        raise ValueError(f"{found}; store pixels as uint8, 0 to 255")
    elif len(shape) == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3):
        raise ValueError(f"{found}; store images channels last, [N, H, W, C]")
    elif len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise ValueError(f"{found}; images must be [N, H, W] or [N, H, W, 1 or 3]")
    elif not 0 < shape[1] * shape[2] <= MAX_PIXELS:
        raise ValueError(f"{found}; an image must have 1 to {MAX_PIXELS:,} pixels")


def _read(images: Any) -> Iterator[ingest.Stored]:
    """Iterate over the images, reading slabs of whole HDF5 chunks, so that each chunk is decompressed once."""
    each = int(np.prod(images.shape[1:])) if images.ndim > 1 else _AT_ONCE // 64
    step = max(1, _AT_ONCE // each)
    if images.chunks:
        step = max(1, step // images.chunks[0]) * images.chunks[0]
    for start in range(0, len(images), step):
        for image in images[start : start + step]:
            yield image if images.ndim > 1 else image.tobytes()
