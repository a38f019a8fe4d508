"""Names of images -> splits, classes and labels. All that is wrong is told at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.common.errors import DataError
from core.loading.images import Splits
from data.reading.terminal import first, printable
from data.reading.tree import SPLITS, Tree

EXPECTED = (
    "expected: train/<class>/*.jpg and test/<class>/*.jpg, optionally val/<class>/*.jpg; or <class>/*.jpg alone; "
    "as a folder, a tar, a zip or an LMDB"
)
WHOLE = "all"  # the split of images that come in class folders only


@dataclass(frozen=True)
class Layout:
    """classes: sorted.  splits: for each image train, val or test, or WHOLE.  labels: its position in classes."""

    classes: tuple[str, ...]
    splits: tuple[str, ...]
    labels: tuple[int, ...]


def arrange(tree: Tree) -> Layout:
    """The layout of a tree. A class is the first folder below the split. Raises DataError."""
    wrong, structural = _faults(tree)
    if wrong:
        raise DataError([*first(wrong), *([EXPECTED] if structural else [])])
    found = places(tree)
    classes = tuple(sorted({name for _, name in found}))
    labels = {name: label for label, name in enumerate(classes)}
    return Layout(classes, tuple(split for split, _ in found), tuple(labels[name] for _, name in found))


def faults(tree: Tree) -> list[str]:
    """All that `arrange` refuses, none left out; empty for a tree that it takes."""
    wrong, structural = _faults(tree)
    return [*wrong, *([EXPECTED] if structural else [])]


def _faults(tree: Tree) -> tuple[list[str], bool]:
    """Lines, and whether the layout itself is another than EXPECTED."""
    if not tree.names:
        left = f" ({len(tree.others):,} other files)" if tree.others else ""
        return [f"{tree.path} holds no images{left}"], True
    ready = _is_split(tree)
    paths = [name.split("/") for name in tree.names]
    structural = list(_misplaced(tree, paths, int(ready))) + (list(_wrong_splits(tree, paths)) if ready else [])
    placed = {(split, name) for split, name in places(tree) if name and split in {*SPLITS.values(), WHOLE}}
    classes = tuple(sorted({name for _, name in placed}))
    return [*structural, *_wrong_classes(tree, int(ready), classes, placed)], bool(structural)


def places(tree: Tree) -> list[tuple[str, str]]:
    """(split, class) of each image of any tree, one that `arrange` refuses too: "" for what it has none of."""
    ready = _is_split(tree)
    paths = [name.split("/") for name in tree.names]
    splits = [SPLITS.get(path[0], path[0] if len(path) > 1 else "") if ready else WHOLE for path in paths]
    classes = [path[ready] if len(path) > ready + 1 else "" for path in paths]
    return list(zip(splits, classes, strict=True))


def lacking(source: Path, splits: Splits) -> list[str]:
    """A line for each split that lacks a class; of several labels at a time, only train must have them all."""
    classes, each = splits.classes, {"train": splits.train, "val": splits.val, "test": splits.test}
    each = {"train": splits.train} if splits.multi_label else each
    return [
        f"{source}: {split} would have no image of {', '.join(absent)}; add images, or change the fractions"
        for split, images in each.items()
        if (absent := [c for c, n in zip(classes, images.counts(len(classes)), strict=True) if not n])
    ]


def _is_split(tree: Tree) -> bool:
    """Whether the outermost folders are splits. A class may be called train, too: other folders stand beside it."""
    outer = {name.partition("/")[0] for name in tree.names}
    return outer <= SPLITS.keys() or {"train", "test"} <= outer


def _misplaced(tree: Tree, paths: list[list[str]], depth: int) -> Iterator[str]:
    lost = [printable("/".join(path)) for path in paths if len(path) < depth + 2]
    if lost:
        yield f"{tree.path}: {len(lost):,} images lie in no class folder: {', '.join(first(lost, 20))}"


def _wrong_splits(tree: Tree, paths: list[list[str]]) -> Iterator[str]:
    outer = {path[0] for path in paths}
    if strange := sorted(printable(name) for name in outer - SPLITS.keys()):
        yield f"{tree.path}: beside train/ and test/ there are images in {', '.join(strange)}; move them away"
    if len(vals := sorted(name for name in outer if SPLITS.get(name) == "val")) > 1:
        yield f"{tree.path}: {' and '.join(vals)} are one split by two names; keep one"
    for split in ("train", "test"):
        if split not in outer:
            yield f"{tree.path}: {split}/ holds no images{_advice(split, vals)}"
    for name in sorted((tree.folders & SPLITS.keys()) - outer - {"train", "test"}):
        yield f"{tree.path}: {name}/ holds no images; fill or remove it"


def _advice(split: str, vals: list[str]) -> str:
    return f"; rename {vals[0]}/ to test/: validation is held out from train" if split == "test" and vals else ""


def _wrong_classes(tree: Tree, depth: int, classes: tuple[str, ...], found: set[tuple[str, str]]) -> Iterator[str]:
    if len(classes) == 1:
        yield f"{tree.path}: {printable(classes[0])} is the only class; classification takes two"
    declared = sorted(tuple(name.split("/")) for name in tree.folders if name.count("/") == depth)
    for path in [path for path in declared if not depth or path[0] in SPLITS]:
        split = SPLITS.get(path[0], "") if depth else WHOLE
        elsewhere = depth and path[-1] in classes  # told below, as a class that the split lacks
        if not elsewhere and (split, path[-1]) not in found:
            yield f"{tree.path}: the class folder {printable('/'.join(path))} holds no images; fill or remove it"
    present = sorted({split for split, _ in found})
    for split in present:
        for other in present:
            lacking = [name for name in classes if (other, name) in found and (split, name) not in found]
            if lacking and "train" in (split, other):
                shown = ", ".join(first([printable(name) for name in lacking], 20))
                yield f"{tree.path}: {split}/ lacks classes that {other}/ has: {shown}"
