"""A labeled set that a run was not trained on: read as the run's own images, its classes matched by name."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from core.common.errors import UserError
from core.common.terminal import tell
from core.common.text import few
from core.inference.answers import Convert
from core.loading.images import Images, Splits
from core.metrics.answers import Answers
from core.runs.trained import Run
from data.folder import ImageFiles
from data.kinds import WITH_LABELS, class_of, kind_of, with_options
from data.reading.decode import with_channels

# fields of a run's data set that say how files and labels are read, and not where they are or how they are divided
READ_ALIKE = (
    *("interpolation", "resize_size", "background", "max_value", "max_megapixels"),
    *("multi_label", "tasks", "separator", "path_column", "label_column"),
)


def converted(run: Run) -> Convert:
    """A function from color images to those that the network of a run takes."""
    return partial(with_channels, channels=run.record["data"]["image_shape"][2])


def another(run: Run, root: Path | None, kind: str | None, options: Mapping[str, str]) -> Splits:
    """The labeled set at root, or of this kind, read as that of the run unless the options say otherwise. Raises
    UserError."""
    cls, own = class_of(kind or kind_of(root or Path()), WITH_LABELS), run.experiment.data
    shared = set(READ_ALIKE) & set(type(own).model_fields) & set(cls.model_fields)
    alike = {name: getattr(own, name) for name in sorted(shared)} if isinstance(own, ImageFiles) else {}
    height, width, _ = run.record["data"]["image_shape"]
    splits = with_options(cls, {"size": f"{height}x{width}", **alike, **options}).load(root)
    if bool(splits.tasks) != bool(run.tasks):
        theirs, ours = ("several tasks" if each.tasks else "a single task" for each in (splits, run))
        advice = "; a table with a column for each is read with --data.tasks A,B" if run.tasks else ""
        raise UserError([f"{root or cls.__name__}: it has {theirs}, and {run.id} has {ours}{advice}"])
    if splits.multi_label != run.multi_label:
        theirs, ours = (("one class", "any number of labels")[flag] for flag in (splits.multi_label, run.multi_label))
        advice = "; a table is read so with --data.multi_label true" if run.multi_label else ""
        raise UserError(
            [f"{root or cls.__name__}: its images have {theirs}, and those of {run.id} have {ours}{advice}"]
        )
    return splits


def chosen(splits: Splits, split: str) -> Images:
    """The images of a split, or of all of them."""
    if split != "all":
        images: Images = getattr(splits, split)
        return images
    return splits.train.together(splits.val, splits.test)


def translation(path: Path | None) -> dict[str, str]:
    """Class of the set -> class of the run, from a CSV file. Raises UserError."""
    if path is None:
        return {}
    try:
        with path.open(newline="") as stream:
            return {row[0].strip(): row[1].strip() for row in csv.reader(stream) if len(row) > 1}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError([f"--map {path}: {error}"]) from None


def matched(images: Images, splits: Splits, run: Run, translation: Mapping[str, str]) -> Images:
    """The images of classes that the run knows, with its targets; of multi-label images all, with the labels that it
    knows. Raises UserError if it knows none."""
    known = {name: label for label, name in enumerate(run.record["data"]["classes"])}
    now = np.array([known.get(translation.get(name, name), -1) for name in splits.classes])
    unknown = [name for name, label in zip(splits.classes, now, strict=True) if label < 0]
    if (now < 0).all():
        theirs, ours = few(known), few(splits.classes)
        what = "labels" if run.multi_label else "classes"
        raise UserError(
            [f"{run.id} knows none of the {what} {ours}; it knows {theirs}; translate them with --map FILE"]
        )
    if run.multi_label:
        return _with_labels(images, now, unknown, run)
    targets = now[images.targets]
    kept = targets >= 0
    if not kept.any():
        raise UserError([f"no image of this split is of a class that {run.id} knows"])
    if unknown:
        tell(f"left out: {int((~kept).sum()):,} images of {few(unknown)}, which {run.id} does not know")
    return replace(images, targets=targets).take(kept)


def _with_labels(images: Images, now: np.ndarray, unknown: list[str], run: Run) -> Images:
    targets = np.zeros((len(images), len(run.record["data"]["classes"])), np.float32)
    for column, label in enumerate(now):
        if label >= 0:
            targets[:, label] = np.maximum(targets[:, label], images.targets[:, column])
    if unknown:
        tell(f"left out: the labels {few(unknown)}, which {run.id} does not know")
    return replace(images, targets=targets)


def of_labels(answers: Answers, splits: Splits, translation: Mapping[str, str]) -> Answers:
    """The answers without the labels that the set does not have: of these, it says of no image whether they apply. The
    classes of several tasks are kept: those of a task exclude each other."""
    named = {translation.get(name, name) for name in splits.classes}
    kept = np.array([name in named for name in answers.classes])
    if answers.tasks:
        return answers
    if not answers.multi_label or kept.all():
        return answers
    lacking = [name for name, has in zip(answers.classes, kept, strict=True) if not has]
    tell(f"left out: the labels {few(lacking)}, which {splits.name} does not have")
    names = tuple(np.array(answers.classes)[kept].tolist())
    return replace(answers, classes=names, targets=answers.targets[:, kept], logits=answers.logits[:, kept])
