"""Splits, classes and labels from the paths of image files. All errors are reported at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.common.blocks import spans
from core.common.errors import DataError
from core.common.text import few, natural
from core.loading.images import Splits
from data.reading.progress import first, printable
from data.reading.splits import READ_AS_SPLITS, resembles, split_of
from data.reading.tree import Tree

EXPECTED = (
    "expected: train/<class>/*.jpg and test/<class>/*.jpg, optionally val/<class>/*.jpg; or only <class>/*.jpg; "
    "as a folder, tar, zip or LMDB"
)
WHOLE = "all"  # the split of images in class folders without split folders
VERSION = "layout 2"  # part of the key of a cache; to be raised when the same names are arranged in another way
SPLITS = ("train", "val", "test")

Form = dict[str, tuple[str, int]]
"""Split folder -> (its split, position of the class in its paths); empty if the top folders are the classes."""


@dataclass(frozen=True)
class Layout:
    """classes: class names in their natural order.  splits: train, val, test or WHOLE, for each image.  labels: class
    index of each, or its 0 and 1 for each class."""

    classes: tuple[str, ...]
    splits: tuple[str, ...]
    labels: tuple[Any, ...]


def arrange(tree: Tree, val_is_test: bool = False) -> Layout:
    """The layout of a tree; classes are the folders directly below the split folders. Raises DataError.

    val_is_test: val/ is the test split, as in ImageNet.
    """
    wrong, structural = _faults(tree, val_is_test)
    if wrong:
        raise DataError([*first(wrong), *([EXPECTED] if structural else [])])
    found = places(tree, val_is_test)
    classes = natural({name for _, name in found})
    labels = {name: label for label, name in enumerate(classes)}
    return Layout(classes, tuple(split for split, _ in found), tuple(labels[name] for _, name in found))


def faults(tree: Tree, val_is_test: bool = False) -> list[str]:
    """All errors for which `arrange` rejects a tree; empty for a valid tree."""
    wrong, structural = _faults(tree, val_is_test)
    return [*wrong, *([EXPECTED] if structural else [])]


def _faults(tree: Tree, val_is_test: bool) -> tuple[list[str], bool]:
    """Error lines, and whether the folder structure differs from EXPECTED."""
    if not tree.names:
        left = f" ({len(tree.others):,} other files)" if tree.others else ""
        return [f"{tree.path} contains no images{left}{_other_kind(tree)}"], True
    paths = [name.split("/") for name in tree.names]
    form = _form(paths, val_is_test)
    if not form and (doubts := [f"{tree.path}: {line}" for line in _doubts(paths)]):
        return doubts, True
    structural = [*_misplaced(tree, paths, form), *(_wrong_splits(tree, paths, form) if form else ())]
    placed = {(split, name) for split, name in places(tree, val_is_test) if name and split in {*SPLITS, WHOLE}}
    return [*structural, *_wrong_classes(tree, form, placed)], bool(structural)


def places(tree: Tree, val_is_test: bool = False) -> list[tuple[str, str]]:
    """(split, class) of each image, also for a tree that `arrange` rejects; "" for an image without split or class."""
    paths = [name.split("/") for name in tree.names]
    form = _form(paths, val_is_test)
    if not form:
        return [(WHOLE, path[0] if len(path) > 1 else "") for path in paths]
    found = []
    for path in paths:
        split, depth = form.get(path[0], (path[0] if len(path) > 1 else "", 1))
        found.append((split, path[depth] if len(path) > depth + 1 else ""))
    return found


def lacking(source: Path, splits: Splits) -> list[str]:
    """An error line for each split that has no image of a class; multi-label data need all classes only in train."""
    classes, each = splits.classes, {"train": splits.train, "val": splits.val, "test": splits.test}
    each = {"train": splits.train} if splits.multi_label else each
    total = [sum(counts) for counts in zip(*(images.counts(len(classes)) for images in each.values()), strict=True)]
    wrong = []
    for split, images in each.items():
        absent = [place for place, n in enumerate(images.counts(len(classes))) if not n]
        if absent:
            enough = splits.multi_label or all(total[place] >= len(each) for place in absent)
            names = few(classes[place] for place in absent)
            mend = "add images, or change the fractions" if enough else "add images: each split needs one of each class"
            wrong.append(f"{source}: the {split} split would have no image of {names}; {mend}")
    for task, columns in spans(splits.tasks):
        bare = [s for s in ("val", "test") if not getattr(splits, s).targets[:, columns].any()]
        wrong += [f"{source}: no image of the {split} split has a label of {task}; add some" for split in bare]
    return wrong


def _form(paths: list[list[str]], val_is_test: bool) -> Form:
    """How the folders are read. They are splits if all of them have the name of a split, or at least two splits are
    among those with class folders; so a class may be named train, next to other class folders."""
    tops = {path[0] for path in paths if len(path) > 1}
    splits = {top: split for top in tops if (split := split_of(top))}
    inner = _inner(paths)
    if len(splits) < len(tops) and len({split for top, split in splits.items() if inner[top]}) < 2:
        return {}
    shallow = {path[0] for path in paths if len(path) < 4}
    only = {top: next(iter(inner[top])) for top in splits if len(inner[top]) == 1 and top not in shallow}
    wrapped = {top for top, name in only.items() if only.keys() == splits.keys() or resembles(name) == splits[top]}
    if val_is_test:
        splits = {top: "test" if split == "val" else split for top, split in splits.items()}
    return {top: (splits[top], 2 if top in wrapped else 1) for top in sorted(splits)}


def _inner(paths: list[list[str]]) -> dict[str, set[str]]:
    """Top folder -> the folders in it that contain images."""
    inner: dict[str, set[str]] = {path[0]: set() for path in paths}
    for path in paths:
        if len(path) > 2:
            inner[path[0]].add(path[1])
    return inner


def _doubts(paths: list[list[str]]) -> Iterator[str]:
    """Why folders that would be read as classes are probably not classes."""
    inner = _inner(paths)
    for top, names in sorted(inner.items()):
        inside = sorted(name for name in names if split_of(name))
        if len({split_of(name) for name in inside}) > 1:
            shown, example = _folders(inside), printable(f"{top}/{inside[0]}/")
            if any(path[0] == top and path[1] == inside[0] and len(path) > 3 for path in paths):
                yield f"the splits {shown} are in {printable(top)}/, next to other folders; move them to the top"
            else:
                moved = printable(f"{inside[0]}/{top}/")
                yield f"the splits {shown} are inside the class folder; move {example} to {moved}, for every class"
    like = {top: split for top in inner if inner[top] and (split := resembles(top))}
    shared = {
        (one, other)
        for one in like
        for other in like
        if like[one] < like[other] and (like.keys() == inner.keys() or inner[one] & inner[other])
    }
    if shared:
        read = " and ".join(
            f"{printable(top)}/ as {like[top]}" for top in sorted({top for pair in shared for top in pair})
        )
        yield (
            f"these folders look like splits, not classes: {read}; rename them, because only {READ_AS_SPLITS} are read "
            "as splits"
        )


def _folders(names: list[str]) -> str:
    return " and ".join(f"{printable(name)}/" for name in names)


def _misplaced(tree: Tree, paths: list[list[str]], form: Form) -> Iterator[str]:
    depths = {top: depth for top, (_, depth) in form.items()}
    lost = [printable("/".join(path)) for path in paths if len(path) < depths.get(path[0], int(bool(form))) + 2]
    if lost:
        yield f"{tree.path}: {len(lost):,} images are not in a class folder: {', '.join(first(lost, 20))}"


def _wrong_splits(tree: Tree, paths: list[list[str]], form: Form) -> Iterator[str]:
    by_split = {split: sorted(top for top in form if form[top][0] == split) for split in SPLITS}
    if strange := sorted(printable(name) for name in {path[0] for path in paths} - form.keys()):
        known = _folders([top for split in SPLITS for top in by_split[split]])
        yield f"{tree.path}: images outside {known}, in {few(strange)}; move or remove these folders"
    for names in by_split.values():
        if len(names) > 1:
            yield f"{tree.path}: {' and '.join(map(printable, names))} are names of the same split; keep one of them"
    lacking = [split for split in ("train", "test") if not by_split[split]]
    for split in lacking:
        yield f"{tree.path}: {split}/ contains no images{_advice(split, by_split['val'])}"
    for name in sorted(folder for folder in tree.folders - form.keys() if "/" not in folder):
        if split_of(name) and split_of(name) not in lacking:
            yield f"{tree.path}: {printable(name)}/ contains no images; add images or remove the folder"


def _other_kind(tree: Tree) -> str:
    """The advice to read the other files of a tree, which look like shards or a table."""
    names = [name for name in tree.others if not name.rpartition("/")[2].startswith(".")]
    if names and all(name.endswith(".tar") for name in names):
        return "; to read the tar files as shards, add --data WebShards"
    table = next((name for name in names if name.lower().endswith((".csv", ".parquet"))), None)
    return f"; if {printable(table)} lists the images, use it as --root, with --data ImageTable" if table else ""


def _advice(split: str, vals: list[str]) -> str:
    if split != "test" or not vals:
        return ""
    advice = "the validation split is created from train"
    return f"; rename {printable(vals[0])}/ to test/, or add --data.test val: {advice}"


def _wrong_classes(tree: Tree, form: Form, found: set[tuple[str, str]]) -> Iterator[str]:
    classes = natural({name for _, name in found})
    if len(classes) == 1:
        few = f"{printable(classes[0])} is the only class; classification requires at least two"
        yield f"{tree.path}: {few}{_other_kind(tree)}"
    for path in sorted(tuple(name.split("/")) for name in tree.folders):
        split, depth = form.get(path[0], (split_of(path[0]), 1)) if form else (WHOLE, 0)
        if split is None or len(path) != depth + 1:
            continue
        elsewhere = form and path[-1] in classes  # reported below, as a class missing in the split
        if not elsewhere and (split, path[-1]) not in found:
            empty = printable("/".join(path))
            yield f"{tree.path}: the class folder {empty} contains no images; add images or remove the folder"
    present = sorted({split for split, _ in found})
    for split in present:
        for other in present:
            lacking = [name for name in classes if (other, name) in found and (split, name) not in found]
            if lacking and "train" in (split, other):
                shown = ", ".join(first([printable(name) for name in lacking], 20))
                mend = (
                    f"add images, or remove {split}/, which is then drawn from train"
                    if split == "val"
                    else "add images"
                )
                yield f"{tree.path}: classes of {other}/ are missing in {split}/: {shown}; {mend}"
