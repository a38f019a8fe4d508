"""Many images in one file, with their labels beside them -> a cache, as that of a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.common.errors import DataError
from data.reading import archive, cache, ingest, layout
from data.reading.terminal import first, printable
from data.reading.tree import SPLITS, Tree


@dataclass(frozen=True)
class Group:
    """The images of one split. split: train, val or test, or layout.WHOLE.  labels: for each its position in classes.
    contents: gives each in turn, uint8 [H, W] or [H, W, C] or the bytes of a file."""

    split: str
    labels: Sequence[int]
    contents: Callable[[], Iterator[ingest.Stored]]


def build(
    root: Path, classes: Sequence[str], groups: Sequence[Group], recipe: ingest.Recipe, folder: Path
) -> cache.Index:
    """Decode all groups to folder/pixels.npy. Raises one DataError that lists every label that is wrong, or every
    image that is unreadable."""
    wrong = [line for group in groups for line in _wrong(root, classes, group)]
    if len(classes) < 2:
        wrong.append(f"{root}: {len(classes)} class; classification takes two")
    if wrong:
        raise DataError(first(wrong))
    names = tuple(f"{group.split}/{row:08}" for group in groups for row in range(len(group.labels)))
    splits = tuple(group.split for group in groups for _ in group.labels)
    labels = tuple(int(label) for group in groups for label in group.labels)
    found = Tree(root, "", names, frozenset(), ())
    arranged = layout.Layout(tuple(classes), splits, labels)
    index = ingest.build(found, arranged, recipe, folder, enumerate(_contents(root, groups)))
    return marked(index)


def marked(index: cache.Index) -> cache.Index:
    """The index under a digest that also names labels, classes, splits and places, which the names of these images do
    not tell."""
    facts = [index.digest, index.classes, index.labels, index.splits, index.places]
    return replace(index, digest=hashlib.sha256(json.dumps(facts).encode()).hexdigest())


def split_of(name: str) -> str | None:
    """The split that a group of this name is; None where it names none."""
    return SPLITS.get(name.lower())


def refuse_groups(root: Path, names: Sequence[str]) -> None:
    """Raises DataError where groups of these names cannot be splits of one data set."""
    splits = [split_of(name) for name in names]
    wrong = [
        f"{root}: {printable(name)} is no split; name it train, val or test"
        for name, split in zip(names, splits, strict=True)
        if split is None
    ]
    if splits.count("val") > 1:
        wrong.append(f"{root}: {' and '.join(names)}: two of these are val; keep one")
    if "train" not in splits:
        wrong.append(f"{root}: there is no train among {', '.join(map(printable, names))}")
    if wrong:
        raise DataError(wrong)


def _contents(root: Path, groups: Sequence[Group]) -> Iterator[ingest.Stored]:
    with archive.reading(root):
        for group in groups:
            yield from group.contents()


def _wrong(root: Path, classes: Sequence[str], group: Group) -> Iterator[str]:
    if not len(group.labels):
        yield f"{root}: {group.split} holds no images"
    for row, label in enumerate(group.labels):
        if not 0 <= label < len(classes):
            yield f"{root}: {group.split} {row}: label {label} is outside 0 .. {len(classes) - 1}"
