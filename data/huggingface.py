"""HuggingFace: a dataset saved to disk by Hugging Face datasets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from core.common import extras
from core.common.errors import DataError
from core.loading.images import Splits
from data.folder import OwnImages
from data.reading import archive, cache, ingest, layout, packed
from data.reading.listing import Listing
from data.reading.progress import printable
from data.reading.splits import split_of

EXPECTED = (
    "expected: a folder written by save_to_disk of a Dataset or DatasetDict with an Image and a ClassLabel feature"
)
_AT_ONCE = 64  # images


class HuggingFace(OwnImages):
    """A dataset saved with `save_to_disk` of Hugging Face datasets, given with --root; requires
    `pip install -e ".[huggingface]"`.

    A Dataset, or a DatasetDict with train and optionally validation and test; missing splits are created. Nothing is
    downloaded, and no code of the dataset is executed.
    """

    images: str = Field("image", min_length=1, description="name of the feature with the images, of type Image")
    labels: str = Field("label", min_length=1, description="name of the feature with the labels, of type ClassLabel")

    def load(self, root: Path | None) -> Splits:
        if root is None:
            raise DataError(["HuggingFace needs the path of your saved dataset: add --root PATH", EXPECTED])
        datasets = _library(root)
        recipe = self.recipe(skip_unreadable=self.skip_unreadable)

        def build(folder: Path) -> cache.Index:
            with archive.reading(root):
                classes, groups = self._groups(datasets, root)
            return packed.build(root, classes, groups, recipe, folder)

        fields = f"{self.images} {self.labels} {recipe.skip_unreadable}"
        key = f"huggingface {archive.fingerprint(root)} {recipe.policy} {fields}"
        return self.splits(cache.fetch(key, build), root)

    def listed(self, root: Path, refuse: archive.Refuse) -> Listing:
        with archive.reading(root):
            classes, groups = self._groups(_library(root), root)
        return packed.listed(type(self).__name__, root, classes, groups, lambda: packed.contents_of(root, groups))

    def _groups(self, datasets: Any, root: Path) -> tuple[list[str], list[packed.Group]]:
        saved = _opened(datasets, root)
        if isinstance(saved, datasets.DatasetDict):
            packed.refuse_groups(root, list(saved))
            tables = {split_of(name) or "": table for name, table in saved.items()}
        else:
            tables = {layout.WHOLE: saved}
        if wrong := [line for split in tables for line in self._wrong(datasets, root, split, tables[split])]:
            raise DataError([*wrong, EXPECTED])
        classes = next(iter(tables.values())).features[self.labels].names
        if any(table.features[self.labels].names != classes for table in tables.values()):
            raise DataError([f"{root}: the splits have different ClassLabel features; cast them to the same one"])
        return list(classes), [self._group(datasets, root, split, table) for split, table in tables.items()]

    def _wrong(self, datasets: Any, root: Path, split: str, table: Any) -> Iterator[str]:
        has = ", ".join(f"{printable(name)}: {type(kind).__name__}" for name, kind in table.features.items())
        for role, name, kind, cast in (
            ("images", self.images, datasets.Image, f"cast_column('{self.images}', Image())"),
            ("labels", self.labels, datasets.ClassLabel, f"class_encode_column('{self.labels}')"),
        ):
            if not isinstance(table.features.get(name), kind):
                fitting = [printable(other) for other, found in table.features.items() if isinstance(found, kind)]
                advice = f"use --data.{role} {' or '.join(fitting)}" if fitting else f"use {cast} and save it again"
                yield f"{root}: {split} has no feature {name} of type {kind.__name__} (it has {has}); {advice}"

    def _group(self, datasets: Any, root: Path, split: str, table: Any) -> packed.Group:
        # not decoded by datasets: images are decoded with the same policy as others, and paths are not followed
        plain = table.with_format(None).select_columns([self.images, self.labels])
        plain = plain.cast_column(self.images, datasets.Image(decode=False))
        labels = [-1 if label is None else label for label in plain[self.labels]]
        return packed.Group(split, labels, partial(_read, root, plain, self.images))


def _library(root: Path) -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"  # the library reads it once, when it is imported
    return extras.library("datasets", "huggingface", f"reading {root} as a Hugging Face dataset")


def _opened(datasets: Any, root: Path) -> Any:
    try:
        return datasets.load_from_disk(str(root.resolve()))
    except Exception as error:  # a damaged folder can raise nearly any error of files, JSON or Arrow
        reason = printable(str(error).splitlines()[0][:300]) if str(error) else type(error).__name__
        raise DataError([f"{root} cannot be read as a saved Hugging Face dataset ({reason})", EXPECTED]) from None


def _read(root: Path, table: Any, images: str) -> Iterator[ingest.Stored]:
    for batch in table.iter(batch_size=_AT_ONCE):
        for one in batch[images]:
            if one is None or one["bytes"] is None:
                advice = "embed the contents of the image files and save the dataset again"
                raise DataError([f"{root} has images that are missing or stored as paths; {advice}"])
            yield one["bytes"]
