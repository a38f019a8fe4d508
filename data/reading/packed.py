"""Caches of sources with many images and their labels in one file."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.common.errors import DataError
from data.reading import archive, cache, ingest, layout
from data.reading.listing import Listing
from data.reading.progress import first, printable
from data.reading.splits import split_of
from data.reading.tree import Tree


@dataclass(frozen=True)
class Group:
    """The images of one split.

    split: train, val, test or layout.WHOLE.  labels: class index of each image, or its 0 and 1 for each class,
    multi-label.  contents: iterator over the images,
    arrays uint8 [H, W] or [H, W, C], or the contents of image files.
    """

    split: str
    labels: Sequence[Any]
    contents: Callable[[], Iterator[ingest.Stored]]


def build(
    root: Path, classes: Sequence[str], groups: Sequence[Group], recipe: ingest.Recipe, folder: Path
) -> cache.Index:
    """Decode all groups to folder/pixels.npy. Raises one DataError that lists the invalid labels, or the images that
    cannot be read."""
    wrong = [line for group in groups for line in _wrong(root, classes, group)]
    if len(classes) < (1 if _several(groups) else 2):
        wrong.append(f"{root}: {len(classes)} class; classification requires at least two")
    if wrong:
        raise DataError(first(wrong))
    splits = tuple(group.split for group in groups for _ in group.labels)
    labels = tuple(label if isinstance(label, list) else int(label) for group in groups for label in group.labels)
    arranged = layout.Layout(tuple(classes), splits, labels)
    index = ingest.build(_tree(root, groups), arranged, recipe, folder, enumerate(contents_of(root, groups)))
    return marked(index)


def build_stream(
    root: Path,
    classes: Sequence[str],
    items: Iterable[tuple[str, int, ingest.Stored]],
    recipe: ingest.Recipe,
    folder: Path,
) -> cache.Index:
    """As `build`, for (split, label, content) of images that come one after the other; the same images and labels have
    the same digest."""
    index = ingest.build_stream(root, classes, _right(root, classes, items), recipe, folder)
    return marked(index)


def _right(
    root: Path, classes: Sequence[str], items: Iterable[tuple[str, int, ingest.Stored]]
) -> Iterator[tuple[str, int, ingest.Stored]]:
    """The same items. Raises DataError at the first label that is not one of the classes."""
    if len(classes) < 2:
        raise DataError([f"{root}: {len(classes)} class; classification requires at least two"])
    seen: Counter[str] = Counter()
    for split, label, content in items:
        if not 0 <= label < len(classes):
            raise DataError([_outside(root, split, seen[split], label, classes)])
        seen[split] += 1
        yield split, label, content


def _outside(root: Path, split: str, row: int, label: int, classes: Sequence[str]) -> str:
    return f"{root}: {split}, index {row}: label {label} is not in the range 0 to {len(classes) - 1}"


def marked(index: cache.Index) -> cache.Index:
    """The index with a digest that also covers labels, classes, splits and places, which are not part of the names of
    these images."""
    facts = [index.digest, index.classes, index.labels, index.splits, index.places]
    return replace(index, digest=hashlib.sha256(json.dumps(facts).encode()).hexdigest())


def listed(
    data: str, root: Path, classes: Sequence[str], groups: Sequence[Group], contents: Callable[[], Iterator[Any]]
) -> Listing:
    """The images of all groups, for `labbook check`.  contents: of the images of all groups, in order. Raises DataError
    for multi-label images."""
    if _several(groups):
        raise DataError(
            [f"{root}: labbook check cannot inspect multi-label images, nor pack them; a training lists their mistakes"]
        )
    wrong = tuple(line for group in groups for line in _wrong(root, classes, group))
    known = dict(enumerate(classes))
    places = tuple((group.split, known.get(int(label), "")) for group in groups for label in group.labels)
    return Listing(data, _tree(root, groups), places, wrong, lambda: enumerate(contents()))


def _several(groups: Sequence[Group]) -> bool:
    """Whether images have any number of labels."""
    return any(isinstance(label, list) for group in groups for label in group.labels[:1])


def _tree(root: Path, groups: Sequence[Group]) -> Tree:
    names = tuple(f"{group.split}/{row:08}" for group in groups for row in range(len(group.labels)))
    return Tree(root, "", names, frozenset(), ())


def refuse_groups(root: Path, names: Sequence[str]) -> None:
    """Raises DataError if groups of these names cannot be the splits of a dataset."""
    splits = [split_of(name) for name in names]
    wrong = [
        f"{root}: {printable(name)} is not a split; name it train, val or test"
        for name, split in zip(names, splits, strict=True)
        if split is None
    ]
    for split in ("train", "val", "test"):
        if splits.count(split) > 1:
            same = " and ".join(printable(name) for name in names if split_of(name) == split)
            wrong.append(f"{root}: {same} are names of the same split; keep one of them")
    if "train" not in splits:
        wrong.append(f"{root}: the train split is missing, the splits are {', '.join(map(printable, names))}")
    if wrong:
        raise DataError(wrong)


def contents_of(root: Path, groups: Sequence[Group]) -> Iterator[ingest.Stored]:
    """The images of all groups, in order. Raises DataError."""
    with archive.reading(root):
        for group in groups:
            yield from group.contents()


def _wrong(root: Path, classes: Sequence[str], group: Group) -> Iterator[str]:
    if not len(group.labels):
        yield f"{root}: {group.split} contains no images"
    for row, label in enumerate(() if _several([group]) else group.labels):
        if not 0 <= label < len(classes):
            yield _outside(root, group.split, row, label, classes)
