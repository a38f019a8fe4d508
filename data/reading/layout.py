"""Splits, classes and labels from the paths of image files. All errors are reported at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.common.errors import DataError
from core.loading.images import Splits
from data.reading.progress import first, printable
from data.reading.tree import SPLITS, Tree

EXPECTED = (
    "expected: train/<class>/*.jpg and test/<class>/*.jpg, optionally val/<class>/*.jpg; or only <class>/*.jpg; "
    "as a folder, tar, zip or LMDB"
)
WHOLE = "all"  # the split of images in class folders without split folders


@dataclass(frozen=True)
class Layout:
    """classes: sorted class names.  splits: train, val, test or WHOLE, for each image.  labels: class index of each."""

    classes: tuple[str, ...]
    splits: tuple[str, ...]
    labels: tuple[int, ...]


def arrange(tree: Tree) -> Layout:
    """The layout of a tree; classes are the folders directly below the split folders. Raises DataError."""
    wrong, structural = _faults(tree)
    if wrong:
        raise DataError([*first(wrong), *([EXPECTED] if structural else [])])
    found = places(tree)
    classes = tuple(sorted({name for _, name in found}))
    labels = {name: label for label, name in enumerate(classes)}
    return Layout(classes, tuple(split for split, _ in found), tuple(labels[name] for _, name in found))


def faults(tree: Tree) -> list[str]:
    """All errors for which `arrange` rejects a tree; empty for a valid tree."""
    wrong, structural = _faults(tree)
    return [*wrong, *([EXPECTED] if structural else [])]


def _faults(tree: Tree) -> tuple[list[str], bool]:
    """Error lines, and whether the folder structure differs from EXPECTED."""
    if not tree.names:
        left = f" ({len(tree.others):,} other files)" if tree.others else ""
        return [f"{tree.path} contains no images{left}"], True
    ready = _is_split(tree)
    paths = [name.split("/") for name in tree.names]
    structural = list(_misplaced(tree, paths, int(ready))) + (list(_wrong_splits(tree, paths)) if ready else [])
    placed = {(split, name) for split, name in places(tree) if name and split in {*SPLITS.values(), WHOLE}}
    classes = tuple(sorted({name for _, name in placed}))
    return [*structural, *_wrong_classes(tree, int(ready), classes, placed)], bool(structural)


def places(tree: Tree) -> list[tuple[str, str]]:
    """(split, class) of each image, also for a tree that `arrange` rejects; "" for an image without split or class."""
    ready = _is_split(tree)
    paths = [name.split("/") for name in tree.names]
    splits = [SPLITS.get(path[0], path[0] if len(path) > 1 else "") if ready else WHOLE for path in paths]
    classes = [path[ready] if len(path) > ready + 1 else "" for path in paths]
    return list(zip(splits, classes, strict=True))


def lacking(source: Path, splits: Splits) -> list[str]:
    """An error line for each split that has no image of a class; multi-label data need all classes only in train."""
    classes, each = splits.classes, {"train": splits.train, "val": splits.val, "test": splits.test}
    each = {"train": splits.train} if splits.multi_label else each
    return [
        f"{source}: the {split} split would have no image of {', '.join(absent)}; add images, or change the fractions"
        for split, images in each.items()
        if (absent := [c for c, n in zip(classes, images.counts(len(classes)), strict=True) if not n])
    ]


def _is_split(tree: Tree) -> bool:
    """Whether the top-level folders are splits. A class may also be named train, next to other class folders."""
    outer = {name.partition("/")[0] for name in tree.names}
    return outer <= SPLITS.keys() or {"train", "test"} <= outer


def _misplaced(tree: Tree, paths: list[list[str]], depth: int) -> Iterator[str]:
    lost = [printable("/".join(path)) for path in paths if len(path) < depth + 2]
    if lost:
        yield f"{tree.path}: {len(lost):,} images are not in a class folder: {', '.join(first(lost, 20))}"


def _wrong_splits(tree: Tree, paths: list[list[str]]) -> Iterator[str]:
    outer = {path[0] for path in paths}
    if strange := sorted(printable(name) for name in outer - SPLITS.keys()):
        yield f"{tree.path}: images outside train/ and test/, in {', '.join(strange)}; move or remove these folders"
    if len(vals := sorted(name for name in outer if SPLITS.get(name) == "val")) > 1:
        yield f"{tree.path}: {' and '.join(vals)} are names of the same split; keep one of them"
    for split in ("train", "test"):
        if split not in outer:
            yield f"{tree.path}: {split}/ contains no images{_advice(split, vals)}"
    for name in sorted((tree.folders & SPLITS.keys()) - outer - {"train", "test"}):
        yield f"{tree.path}: {name}/ contains no images; add images or remove the folder"


def _advice(split: str, vals: list[str]) -> str:
    advice = "the validation split is created from train"
    return f"; rename {vals[0]}/ to test/: {advice}" if split == "test" and vals else ""


def _wrong_classes(tree: Tree, depth: int, classes: tuple[str, ...], found: set[tuple[str, str]]) -> Iterator[str]:
    if len(classes) == 1:
        yield f"{tree.path}: {printable(classes[0])} is the only class; classification requires at least two"
    declared = sorted(tuple(name.split("/")) for name in tree.folders if name.count("/") == depth)
    for path in [path for path in declared if not depth or path[0] in SPLITS]:
        split = SPLITS.get(path[0], "") if depth else WHOLE
        elsewhere = depth and path[-1] in classes  # reported below, as a class missing in the split
        if not elsewhere and (split, path[-1]) not in found:
            empty = printable("/".join(path))
            yield f"{tree.path}: the class folder {empty} contains no images; add images or remove the folder"
    present = sorted({split for split, _ in found})
    for split in present:
        for other in present:
            lacking = [name for name in classes if (other, name) in found and (split, name) not in found]
            if lacking and "train" in (split, other):
                shown = ", ".join(first([printable(name) for name in lacking], 20))
                yield f"{tree.path}: classes of {other}/ are missing in {split}/: {shown}"
