"""ImageFolder: images of your own, sorted into folders by class."""

from __future__ import annotations

from abc import ABC
from pathlib import Path

from pydantic import Field

from core.common.errors import DataError
from core.loading.images import Dataset, Pixels, Splits
from core.loading.stratify import stratified
from data.reading import archive, cache, ingest, layout, tree
from data.reading.files import Files

TEST_SEED = -1  # no split_seed can be negative: the test split is fixed and drawn apart from validation


class OwnImages(Dataset, ABC):
    """Base of images of your own, given with --root, with ready splits or with some that are still to be drawn."""

    size: int = Field(224, ge=8, le=4096, description="pixels; the largest centered square is resized to size x size")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share held out for test, in each class; no test/ needed")
    skip_unreadable: bool = Field(False, description="leave unreadable images out and say so, instead of refusing")

    def splits(self, cached: cache.Cached, root: Path, pixels: Pixels | None = None) -> Splits:
        """What the cache has of train, val and test, the rest drawn. pixels: the rows of a cache that keeps none.

        Raises DataError where a split lacks a class.
        """
        present = set(cached.index.splits)
        rest = cached.images(layout.WHOLE if layout.WHOLE in present else "train", pixels)
        if "test" in present:
            test = cached.images("test", pixels)
        else:
            held = stratified(rest.targets, self.test_fraction, TEST_SEED)
            test, rest = rest.take(held), rest.take(~held)
        train, val = (rest, cached.images("val", pixels)) if "val" in present else self.divide(rest)
        name = root.resolve().name.partition(".")[0] or "images"
        classes = tuple(cached.index.classes)
        splits = Splits(name, classes, train, val, test, cached.index.digest, cached.source)
        if wrong := layout.lacking(root, splits):
            raise DataError(wrong)
        return splits


class ImageFolder(OwnImages):
    """A folder, tar, zip or LMDB of class folders, given with --root.

    Either ready splits (train/, test/ and perhaps val/, which then replaces val_fraction), or class folders alone,
    of which test_fraction becomes the test split, the same for every run. In an LMDB, a key is a file's name and its
    value that file's bytes; it takes `pip install -e ".[lmdb]"`.
    """

    cached: bool = Field(
        True, description="decoded once, into a memory map on disk; false: each image whenever it comes, from its file"
    )

    def load(self, root: Path | None) -> Splits:
        if root is None:
            raise DataError(["ImageFolder needs your images: name them with --root PATH", layout.EXPECTED])
        if not self.cached and not archive.stored(root).is_dir():
            raise DataError(
                [f"{root}: images that are decoded as they come need a folder; unpack it, or leave out cached"]
            )
        recipe = ingest.Recipe(self.size, skip_unreadable=self.skip_unreadable, keep=self.cached)

        def build(folder: Path) -> cache.Index:
            found = tree.scan(root)
            return ingest.build(found, layout.arrange(found), recipe, folder)

        key = f"{archive.fingerprint(root)} {recipe.policy} {recipe.skip_unreadable}"
        cached = cache.fetch(key, build)
        return self.splits(cached, root, None if self.cached else self._files(cached, root))

    def _files(self, cached: cache.Cached, root: Path) -> Files:
        index = cached.index
        names = [""] * (max(index.rows) + 1)
        for row, name in zip(index.rows, index.names, strict=True):
            names[row] = name
        return Files(root / cached.top, tuple(names), self.size)
