"""Concat: several data sets as one, their classes matched by name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from core.common.errors import DataError
from core.common.text import few
from core.loading.images import Dataset, Images, Splits
from data.reading import cache

AT_ONCE = 1024  # images that are copied at a time
SPLITS = ("train", "val", "test")


class Concat(Dataset):
    """Several data sets as one: Concat(sets=(Cifar10(), ImageFolder(size=32)), roots=("", "photographs")).

    Classes of the same name are one class; others are added after those of the first set, in their order. Each split
    is that of all parts, and val_fraction and split_seed are those of the parts. All images have one size and number of
    channels. They are copied once into a cache of their own.
    """

    sets: tuple[Dataset, ...] = Field(description="data sets, in their order")
    roots: tuple[str, ...] = Field(
        (),
        description="path of each part, relative to --root or to the current folder; empty: the part needs none, or "
        "uses --root",
    )

    def check(self) -> None:
        if len(self.sets) < 2:
            raise ValueError("sets should be at least two data sets")
        if self.roots and len(self.roots) != len(self.sets):
            raise ValueError(f"{len(self.roots)} roots for {len(self.sets)} sets; give one for each, or none")
        own = {name: field.default for name, field in Dataset.model_fields.items()}
        if changed := [name for name, value in own.items() if getattr(self, name) != value]:
            raise ValueError(f"{changed[0]} is that of each of its sets; set it there")

    def load(self, root: Path | None) -> Splits:
        roots = self.roots or ("",) * len(self.sets)
        found = []
        for part, place in zip(self.sets, roots, strict=True):
            where = (root or Path()) / place if place else root
            found.append(part.load(None if part.embedded else where))
        _refuse_unlike(found)
        classes = tuple(dict.fromkeys(name for splits in found for name in splits.classes))
        digest = hashlib.sha256("\n".join(("concat 1", *(splits.digest for splits in found))).encode()).hexdigest()
        sizes = str([[len(getattr(splits, split)) for split in SPLITS] for splits in found])
        cached = cache.fetch(f"concat {digest} {sizes}", lambda folder: _copied(found, digest, folder))
        assert cached.pixels is not None
        joined = [_joined(found, split, classes, cached.pixels) for split in SPLITS]
        facts = [digest, *classes, *(str(images.targets.tolist()) for images in joined)]
        return Splits(
            name=" + ".join(splits.name for splits in found),
            classes=classes,
            train=joined[0],
            val=joined[1],
            test=joined[2],
            digest=hashlib.sha256("\n".join(facts).encode()).hexdigest(),
            source="; ".join(splits.source for splits in found),
            multi_label=found[0].multi_label,
        )


def _refuse_unlike(found: Sequence[Splits]) -> None:
    """Raises DataError for data sets that cannot be one."""
    first, wrong = found[0], []
    wrong += [f"{splits.name} has several tasks, which Concat does not support" for splits in found if splits.tasks]
    for splits in found[1:]:
        if splits.train.shape != first.train.shape:
            sides = ["x".join(map(str, each.train.shape)) for each in (splits, first)]
            advice = "give both the same --data.size and channels"
            wrong.append(f"{splits.name} has images of {sides[0]}, {first.name} of {sides[1]}; {advice}")
        if (splits.train.weights is None) != (first.train.weights is None):
            kinds = ["no weights" if each.train.weights is None else "weights" for each in (splits, first)]
            wrong.append(f"the images of {splits.name} have {kinds[0]}, those of {first.name} {kinds[1]}")
        if splits.multi_label != first.multi_label:
            kinds = ["any number of labels" if each.multi_label else "one class" for each in (splits, first)]
            wrong.append(f"an image of {splits.name} has {kinds[0]}, of {first.name} {kinds[1]}")
        if not set(splits.classes) & set(first.classes):
            named = f"{few(splits.classes, 4)} and {few(first.classes, 4)}"
            wrong.append(f"{splits.name} and {first.name} have no class in common: {named}; rename their classes")
    if wrong:
        raise DataError([f"data: {line}" for line in wrong])


def _copied(found: Sequence[Splits], digest: str, folder: Path) -> cache.Index:
    """Copy all images, those of a split of a part one after the other."""
    with cache.appended(folder, found[0].train.shape) as add:
        for splits in found:
            for split in SPLITS:
                images: Images = getattr(splits, split)
                for start in range(0, len(images), AT_ONCE):
                    for pixels in images.pixels[images.rows[start : start + AT_ONCE]]:
                        add(pixels)
    return cache.Index(digest, "concat 1", " + ".join(splits.name for splits in found), [], [], [], [], [])


def _joined(found: Sequence[Splits], split: str, classes: Sequence[str], pixels: np.ndarray) -> Images:
    """One split of all parts, whose pixels are where `_copied` has put them."""
    place = {name: label for label, name in enumerate(classes)}
    start, parts = 0, []
    grouped = any(getattr(splits, split).groups is not None for splits in found)
    for number, splits in enumerate(found):
        for each in SPLITS:
            images: Images = getattr(splits, each)
            rows = start + np.arange(len(images))
            start += len(images)
            if each != split:
                continue
            now = np.array([place[name] for name in splits.classes])
            if images.targets.ndim == 2:
                targets = np.zeros((len(images), len(classes)), np.float32)
                targets[:, now] = images.targets
            else:
                targets = now[images.targets]
            names = images.groups if images.groups is not None else rows
            groups = np.array([f"{number}: {name}" for name in names]) if grouped else None
            parts.append(Images(pixels, rows, targets, groups=groups, weights=images.weights))
    return parts[0].together(*parts[1:])
