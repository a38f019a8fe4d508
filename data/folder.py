"""ImageFolder: images of your own, sorted into folders by class."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from core.images import DataError, Dataset, Splits, stratified
from data import archive, cache, ingest, layout, tree
from data.files import Files

TEST_SEED = -1  # no split_seed can be negative: the test split is fixed and drawn apart from validation


class ImageFolder(Dataset):
    """A folder, tar or zip of class folders, given with --root.

    Either ready splits (train/, test/ and perhaps val/, which then replaces val_fraction), or class folders alone,
    of which test_fraction becomes the test split, the same for every run.
    """

    size: int = Field(224, ge=8, le=4096, description="pixels; the largest centred square is resized to size x size")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share held out for test, in each class; no test/ needed")
    cached: bool = Field(
        True, description="decoded once, into a memory map on disk; false: each image whenever it comes, from its file"
    )
    skip_unreadable: bool = Field(False, description="leave unreadable images out and say so, instead of refusing")

    def load(self, root: Path | None) -> Splits:
        if root is None:
            raise DataError(["ImageFolder needs your images: name them with --root PATH", layout.EXPECTED])
        if not self.cached and not root.is_dir():
            raise DataError(
                [f"{root}: images that are decoded as they come need a folder; unpack it, or leave out cached"]
            )
        recipe = ingest.Recipe(self.size, skip_unreadable=self.skip_unreadable, keep=self.cached)

        def build(folder: Path) -> cache.Index:
            found = tree.scan(root)
            return ingest.build(found, layout.arrange(found), recipe, folder)

        key = f"{archive.fingerprint(root)} {recipe.policy} {recipe.skip_unreadable}"
        return self._splits(cache.fetch(key, build), root)

    def _splits(self, cached: cache.Cached, root: Path) -> Splits:
        present = set(cached.index.splits)
        files = None if self.cached else self._files(cached, root)
        if present == {layout.WHOLE}:
            images = cached.images(layout.WHOLE, files)
            held = stratified(images.targets, self.test_fraction, TEST_SEED)
            test, rest = images.take(held), images.take(~held)
        else:
            test, rest = cached.images("test", files), cached.images("train", files)
        train, val = (rest, cached.images("val", files)) if "val" in present else self.divide(rest)
        classes = tuple(cached.index.classes)
        name = root.resolve().name.partition(".")[0] or "images"
        splits = Splits(name, classes, train, val, test, cached.index.digest, cached.source)
        if wrong := layout.lacking(root, splits):
            raise DataError(wrong)
        return splits

    def _files(self, cached: cache.Cached, root: Path) -> Files:
        index = cached.index
        names = [""] * (max(index.rows) + 1)
        for row, name in zip(index.rows, index.names, strict=True):
            names[row] = name
        return Files(root / cached.top, tuple(names), self.size)
