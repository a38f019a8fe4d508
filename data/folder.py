"""ImageFolder: your own images in one folder per class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from core.common.errors import DataError
from core.loading.images import Dataset, Pixels, Splits
from core.loading.stratify import stratified
from data.reading import archive, cache, ingest, labels, layout, tree
from data.reading.decode import MAX_PIXELS, MAX_VALUE, MOST_PIXELS, Conversion
from data.reading.files import Files
from data.reading.frame import LEAST, MOST, Frame, Interpolation, Reduced, Size, sides
from data.reading.listing import Listing
from data.reading.progress import say
from data.reading.reduced import ReducedImages

_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_switched = BeforeValidator(lambda value: _SWITCH.get(str(value).lower(), value))
TEST_SEED = -1  # differs from every split_seed, which cannot be negative: the test split is fixed


class ImageFiles(Dataset, ABC):
    """Base class of data sets that decode image files of any size and kind."""

    size: Size = Field(
        224,
        description="image size in pixels, a side or HEIGHTxWIDTH: the largest centered area of this shape is resized "
        f"to it ({LEAST} to {MOST})",
    )
    interpolation: Interpolation = Field(
        "bilinear", description="interpolation with which image files are resized; antialiased, except for nearest"
    )
    resize_size: int | None = Field(
        None,
        ge=LEAST,
        le=MOST,
        description="resize the shorter side of images to this length before their center of size x size is cropped, "
        "as pretrained weights may expect (256 for 224); none: the largest centered area is resized",
    )
    background: Literal["white", "black"] = Field("white", description="color behind transparent pixels")
    max_value: int = Field(
        MAX_VALUE,
        ge=255,
        le=MAX_VALUE,
        description="value of 16-bit grayscale files that becomes white, such as 4095 for 12-bit data; larger values "
        "are clipped",
    )

    max_megapixels: int = Field(
        MAX_PIXELS // 1_000_000,
        ge=1,
        le=MOST_PIXELS // 1_000_000,
        description="size of the largest image file that is decoded, each of which takes 3 MB of memory per megapixel; "
        "larger JPEGs are reduced while decoding",
    )

    @abstractmethod
    def listed(self, root: Path, refuse: archive.Refuse) -> Listing:
        """The images for `labbook check`. refuse: called with each error of a folder. Raises DataError if they cannot
        be listed."""

    def recipe(self, **how: Any) -> ingest.Recipe:
        """The recipe of these options.  how: further fields of it."""
        return ingest.Recipe(self.frame, conversion=self.conversion, **how)

    @property
    def frame(self) -> Frame:
        """What is cut from an image, and how it is resized."""
        return Frame(*sides(self.size), self.interpolation, self.resize_size)

    def check(self) -> None:
        height, width = sides(self.size)
        if self.resize_size and (height != width or height > self.resize_size):
            raise ValueError(f"resize_size {self.resize_size} requires a square size of at most this, not {self.size}")

    @property
    def conversion(self) -> Conversion:
        """How pixels that are not 8-bit RGB become so."""
        return Conversion(self.background, self.max_value, self.max_megapixels * 1_000_000)


def frame_for(data: Dataset, image_shape: Sequence[int]) -> Frame:
    """What is cut from an image file for a network that was trained on these data. image_shape: of its images."""
    return data.frame if isinstance(data, ImageFiles) else Frame(image_shape[0], image_shape[1])


def divided(
    data: Dataset, test_fraction: float, cached: cache.Cached, source: Path, name: str, pixels: Pixels | None = None
) -> Splits:
    """The train, val and test splits of cached data, named `name`; missing splits are created, stratified by class.

    source: for messages.  pixels: the images, if the cache does not store them. Raises DataError if a split has no
    image of a class.
    """
    present = set(cached.index.splits)
    rest = cached.images(layout.WHOLE if layout.WHOLE in present else "train", pixels)
    if "test" in present:
        test = cached.images("test", pixels)
    else:
        held = stratified(rest.targets, test_fraction, TEST_SEED)
        test, rest = rest.take(held), rest.take(~held)
    train, val = (rest, cached.images("val", pixels)) if "val" in present else data.divide(rest)
    classes = tuple(cached.index.classes)
    labels.tell_doubts(source, classes)
    if "not supported" in cached.source:  # files that may be images
        say(cached.source)
    several = train.targets.ndim == 2
    splits = Splits(name, classes, train, val, test, cached.index.digest, cached.source, several)
    if wrong := layout.lacking(source, splits):
        raise DataError(wrong)
    return splits


class OwnImages(ImageFiles, ABC):
    """Base class of datasets of your own images, given with --root. Splits that they do not define are created."""

    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="fraction of each class used as the test split, if the data have no test split"
    )
    skip_unreadable: bool = Field(
        False, description="skip images that cannot be read, with a message, instead of stopping with an error"
    )

    def splits(self, cached: cache.Cached, root: Path, pixels: Pixels | None = None) -> Splits:
        """The train, val and test splits of the cached data; missing splits are created, stratified by class.

        pixels: the images, if the cache does not store them. Raises DataError if a split has no image of a class.
        """
        name = root.resolve().name.partition(".")[0] or "images"
        return divided(self, self.test_fraction, cached, root, name, pixels)


class ImageFolder(OwnImages):
    """Images in one folder per class, as a folder, tar, zip or LMDB given with --root.

    The class folders are in train/, test/ and optionally val/ (which replaces val_fraction), or directly in the root.
    In that case, test_fraction of each class is the test split, the same for all runs. Common spellings of the splits
    are read, too (Training, test_set, valid, dev), and folders around all of them are looked into. In an LMDB, keys are
    file names and values are file contents; it requires `pip install -e ".[lmdb]"`.
    """

    cached: Annotated[Literal[True, False, "resized"], _switched] = Field(
        True,
        description="decode the images once, to a memory-mapped file on disk; resized: keep them as smaller JPEG files "
        "in it, of which random crops are taken; false: decode the image files during training",
    )

    test: Literal["test", "val"] = Field(
        "test",
        description="folder of the test split; val: that of folders with train and val alone, such as ImageNet's, and "
        "validation is held out of train",
    )

    def load(self, root: Path | None) -> Splits:
        if root is None:
            raise DataError(["ImageFolder needs the path of your images: add --root PATH", layout.EXPECTED])
        if not self.cached and not archive.stored(root).is_dir():
            raise DataError(
                [f"{root} is not a folder, which --data.cached false requires; unpack it, or omit --data.cached"]
            )
        recipe = self.recipe(skip_unreadable=self.skip_unreadable, keep=bool(self.cached))
        if self.cached == "resized":
            recipe = replace(recipe, frame=Reduced.to(self.frame))

        def build(folder: Path) -> cache.Index:
            found = tree.scan(root)
            return ingest.build(found, layout.arrange(found, self.test == "val"), recipe, folder)

        key = f"{layout.VERSION} {archive.fingerprint(root)} {recipe.policy} {recipe.skip_unreadable}"
        if self.test == "val":
            key += " val is test"
            held = f"{self.val_fraction:g} of each class of train is held out for validation"
            say(f"{root.name}: val is the test split, read once, at the end; {held}")
        cached = cache.fetch(key, build)
        if self.cached == "resized":
            return self.splits(cached, root, ReducedImages.of(cached, self.frame))
        return self.splits(cached, root, None if self.cached else self._files(cached, root, recipe.conversion))

    def listed(self, root: Path, refuse: archive.Refuse) -> Listing:
        found = tree.scan(root, refuse)
        val_is_test = self.test == "val"
        places, faults = tuple(layout.places(found, val_is_test)), tuple(layout.faults(found, val_is_test))
        return Listing(type(self).__name__, found, places, faults, lambda: tree.contents(found, refuse))

    def _files(self, cached: cache.Cached, root: Path, conversion: Conversion) -> Files:
        index = cached.index
        names = [""] * (max(index.rows) + 1)
        for row, name in zip(index.rows, index.names, strict=True):
            names[row] = name
        return Files(root / cached.top, tuple(names), self.frame, conversion)
