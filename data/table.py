"""ImageTable: your own images, listed with their labels in a CSV or Parquet file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from core.common.blocks import qualified
from core.common.errors import DataError
from core.loading.images import Images, Splits
from core.loading.stratify import held_out, stratified
from core.metrics.names import DENSE
from data.folder import TEST_SEED, ImageFiles
from data.reading import archive, cache, ingest, labels, layout, rows, tables
from data.reading.columns import EXPECTED
from data.reading.decode import Unreadable
from data.reading.listing import Listing
from data.reading.progress import say
from data.reading.tree import Tree

_TASK = re.compile(r"\w[\w-]*", re.ASCII)


class ImageTable(ImageFiles):
    """Image paths and labels in a .csv or .parquet file given with --root: the file, or a folder with one such file, or
    with part-files as Spark writes them (part-*.parquet), which are read as one table.

    Paths are relative to the folder of the table, or to image_dir. A label is a class name or an integer; integers are
    sorted by value. With multi_label, an image has any number of labels: cat|dog in a CSV file (an empty cell is no
    label), or a list in a Parquet file. With tasks, it has a label in each of several columns, or none where the cell
    is empty. The splits are those of the table; missing ones are created with test_fraction and val_fraction,
    stratified by class. All images of a group (a patient, a camera) are in the same split.
    """

    multi_label: bool = Field(False, description="multi-label classification: an image has any number of labels")
    separator: str = Field("|", min_length=1, description="separator between the labels of an image")
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="fraction of the images used as the test split, if the table has no splits"
    )
    path_column: str = Field("path", description="column with the image paths, relative to the folder of the table")
    label_column: str = Field("label", description="column with the labels")
    tasks: tuple[str, ...] = Field(
        (),
        description="columns of several tasks, each with the labels of one, e.g. color,shape, in place of "
        "label_column; none: a single task",
    )
    split_column: str | None = Field(
        "split", description="column with train, val or test; none, or no such column: the splits are random"
    )
    group_column: str | None = Field(
        "group",
        description="column with groups, whose images must be in the same split; none, or no such column: no groups",
    )
    weight_column: str | None = Field(
        None,
        description="column with the weights, 0 or more, with which sampling=ImageWeighted draws the training images; "
        "none: no weights",
    )
    header: bool = Field(
        True,
        description="the first row of a CSV file has the names of the columns; false: it is an image, and columns are "
        "named 1, 2, ...: path 1 and label 2, unless path_column and label_column say otherwise",
    )
    image_dir: str | None = Field(
        None,
        description="folder to which the image paths are relative, absolute or relative to the folder of the table; "
        "none: the folder of the table",
    )
    allow_outside: bool = Field(False, description="allow image paths outside this folder")

    @property
    def task_names(self) -> tuple[str, ...]:
        return self.tasks

    def check(self) -> None:
        super().check()
        if self.tasks and self.multi_label:
            raise ValueError("tasks and multi_label: each task has one label for an image; remove one of them")
        if len(self.tasks) == 1:
            raise ValueError(f"tasks: {self.tasks[0]} is a single task; set label_column to it instead")
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks: a column is named twice in {', '.join(self.tasks)}")
        if odd := [name for name in self.tasks if not _TASK.fullmatch(name)]:
            advice = "rename the column to letters, digits, _ and -, as it is part of the names of metrics"
            raise ValueError(f"tasks: {odd[0]!r} cannot be the name of a task; {advice}")
        others = (self.path_column, self.split_column, self.group_column, "error")
        if taken := [name for name in self.tasks if name in others]:
            raise ValueError(f"tasks: {taken[0]} has another meaning; rename the column")

    def load(self, root: Path | None) -> Splits:
        if root is None:
            raise DataError(["ImageTable needs the path of your table: add --root PATH", EXPECTED])
        table, found, wrong = self._read(root)
        if self.tasks:
            return self._several(table, found, wrong)
        classes, wrong_names = labels.class_names(name for row in found for name in row.labels)
        wrong += wrong_names
        if found and not wrong and len(classes) < (1 if self.multi_label else 2):
            few = f"{classes[0]} is the only class; classification requires at least two" if classes else ""
            wrong.append(few or "no image has a label")
        cached = _pixels(table, found, self.recipe(listed=None), wrong)
        labels.tell_doubts(table, classes)
        splits = self._splits(table, found, classes, cached)
        if lacking := layout.lacking(table, splits):
            raise DataError(lacking)
        return splits

    def _several(self, table: Path, found: list[rows.Row], wrong: list[str]) -> Splits:
        """The splits of several tasks. Raises DataError."""
        blocks: list[tuple[str, int]] = []
        classes: list[str] = []
        for place, task in enumerate(self.tasks):
            own, wrong_names = labels.class_names(
                row.labels[place] for row in found if row.labels and row.labels[place]
            )
            wrong += [f"{task}: {line}" for line in wrong_names]
            if found and not wrong and not 2 <= len(own) <= DENSE:
                wrong.append(f"{task} has {len(own):,} classes; a task has 2 to {DENSE:,}")
            blocks.append((task, len(own)))
            classes += [qualified(task, name) for name in own]
        cached = _pixels(table, found, self.recipe(listed=None), wrong)
        labels.tell_doubts(table, classes)
        splits = replace(self._splits(table, found, tuple(classes), cached), tasks=tuple(blocks))
        if lacking := layout.lacking(table, splits):
            raise DataError(lacking)
        if some := {task: count for task, count in splits.unlabeled.items() if count}:
            each = ", ".join(f"{count:,} of {task}" for task, count in some.items())
            say(f"{table.name}: images without a label: {each}; they add nothing to the loss of this task")
        return splits

    def listed(self, root: Path, refuse: archive.Refuse) -> Listing:
        if self.multi_label or self.tasks:
            kind = "tables of several tasks" if self.tasks else "multi-label tables"
            raise DataError(
                [f"{root}: labbook check cannot inspect {kind}, nor pack them; a training lists their mistakes"]
            )
        table, found, wrong = self._read(root)
        wrong += labels.class_names(name for row in found for name in row.labels)[1]
        tree = Tree(table, "", tuple(row.name for row in found), frozenset(), ())
        places = tuple((row.split, row.labels[0] if row.labels else "") for row in found)
        files = [(number, row.file) for number, row in enumerate(found)]
        groups = tuple(row.group for row in found)
        some = groups if any(group is not None for group in groups) else ()
        return Listing(type(self).__name__, tree, places, tuple(wrong), lambda: iter(files), some)

    def _read(self, root: Path) -> tuple[Path, list[rows.Row], list[str]]:
        """(the table, its rows, an error line for each invalid row)"""
        table = tables.find(root)
        path, label = self.path_column, self.label_column
        if not self.header:
            path, label = "1" if path == "path" else path, "2" if label == "label" else label
        columns = rows.Columns(path, label, self.split_column, self.group_column, self.multi_label, self.separator)
        images = tables.folder_of(table) / (self.image_dir or "")
        columns = replace(columns, header=self.header, weight=self.weight_column, tasks=self.tasks)
        return table, *rows.read(table, columns, self.allow_outside, images)

    def _splits(self, table: Path, found: list[rows.Row], classes: tuple[str, ...], cached: cache.Cached) -> Splits:
        names = [row.group for row in found]
        groups = _numbered(names)
        images = replace(
            cached.images(layout.WHOLE),
            targets=self._targets(found, classes),
            groups=None if groups is None else np.array(names),
            weights=np.array([row.weight for row in found]) if self.weight_column else None,
        )
        splits = np.array([row.split for row in found], dtype=object)
        if layout.WHOLE in splits:
            splits[_held(images, groups, np.ones(len(images), dtype=bool), self.test_fraction, TEST_SEED)] = "test"
            splits[splits == layout.WHOLE] = "train"
        if "val" not in splits:
            splits[_held(images, groups, splits == "train", self.val_fraction, self.split_seed)] = "val"
        train, val, test = (images.take(splits == split) for split in ("train", "val", "test"))
        kind = f"tasks {self.tasks}" if self.tasks else self.multi_label
        digest, several = _digest(f"{cached.index.digest} {kind}", found), self.multi_label or bool(self.tasks)
        return Splits(table.stem, classes, train, val, test, digest, cached.source, several)

    def _targets(self, found: list[rows.Row], classes: tuple[str, ...]) -> np.ndarray:
        """Targets, int64 [N]; multi-label targets, and those of several tasks, float32 [N, C]."""
        place = {name: label for label, name in enumerate(classes)}
        if not self.multi_label and not self.tasks:
            return np.array([place[row.labels[0]] for row in found], dtype=np.int64)
        targets = np.zeros((len(found), len(classes)), dtype=np.float32)
        for row, target in zip(found, targets, strict=True):
            target[[place[name] for name in self._classes_of(row)]] = 1
        return targets

    def _classes_of(self, row: rows.Row) -> list[str]:
        """The classes of an image that has any number of labels, or one of some tasks."""
        if not self.tasks:
            return list(row.labels)
        return [qualified(task, name) for task, name in zip(self.tasks, row.labels, strict=True) if name]


def _held(images: Images, groups: np.ndarray | None, among: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Mask, bool [N], of the images to hold out.  among: mask, bool [N], of the images to choose from."""
    targets = images.targets[among]
    held = np.zeros(len(images), dtype=bool)
    if groups is None:
        held[among] = stratified(targets, fraction, seed)
    else:
        has = targets > 0 if targets.ndim == 2 else targets[:, None] == np.unique(targets)
        held[among] = held_out(has, groups[among], fraction, seed)
    return held


def _numbered(groups: Sequence[str | None]) -> np.ndarray | None:
    """Index of the group of each image, int64 [N], groups sorted by name; None if there are no groups."""
    if None in groups:
        return None
    return np.unique(np.array(groups), return_inverse=True)[1]


def _pixels(table: Path, found: list[rows.Row], recipe: ingest.Recipe, wrong: list[str]) -> cache.Cached:
    """The cache of all images, in the order of the rows. Labels are not cached, so that they can change without the
    images being decoded again. Raises one DataError that lists `wrong` and every image that cannot be read."""
    tree = Tree(table, "", tuple(row.name for row in found), frozenset(), ())
    blank = layout.Layout(("",), (layout.WHOLE,) * len(found), (0,) * len(found))

    def build(folder: Path) -> cache.Index:
        index = ingest.build(tree, blank, recipe, folder, ((i, row.file) for i, row in enumerate(found)))
        # must differ from the cache of the same files in class folders, which includes their labels
        return replace(index, digest=hashlib.sha256(f"table {index.digest}".encode()).hexdigest())

    files = ([row.name, str(row.file), row.status.st_size, row.status.st_mtime_ns] for row in found)
    try:
        cached = cache.fetch(f"table {recipe.policy} {_sha256(files)}", build) if found else None
    except Unreadable as error:
        raise DataError([*_headed(table, wrong), *error.lines]) from None
    if wrong or cached is None:
        raise DataError(_headed(table, wrong))
    return cached


def _headed(table: Path, wrong: list[str]) -> list[str]:
    count = f"{len(wrong):,} error" + "s" * (len(wrong) != 1)
    return [f"{table}: {count} (row 1 is the first below the header):", *wrong] if wrong else []


def _digest(pixels: str, found: list[rows.Row]) -> str:
    """A digest of the images and their labels, splits, groups and weights, if they have any."""
    facts = ((row.name, row.labels, row.split, row.group, row.weight) for row in found)
    return _sha256([pixels, *(each if each[-1] is not None else each[:-1] for each in facts)])


def _sha256(facts: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(json.dumps(fact).encode() + b"\n")
    return digest.hexdigest()
