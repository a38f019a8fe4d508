"""Answers of several runs, image by image: paired by the content of the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.common.errors import UserError
from core.loading.images import Images
from core.metrics.answers import Answers, identity


def paired(runs: Sequence[Answers]) -> tuple[list[np.ndarray], int]:
    """(the positions of the images that all runs have answered, int64 [n] for each run, in one order; the number of
    other images). Equal images are paired in their order.

    Raises UserError if there are no such images, if the runs have different classes, and for multi-label runs.
    """
    first = runs[0]
    for other in runs:
        if other.tasks:
            raise UserError(["runs with one class for each image are compared, and these have several tasks"])
        if other.multi_label:
            raise UserError(["runs with one class for each image are compared, and these are multi-label"])
        if other.classes != first.classes:
            raise UserError(["the runs have different classes"])
    return in_common([answers.ids for answers in runs], first.split)


def in_common(ids: Sequence[np.ndarray], split: str) -> tuple[list[np.ndarray], int]:
    """As `paired`, for the ids of the images that each run has answered, str [N]. Raises UserError if there are no
    common ones."""
    if all(np.array_equal(other, ids[0]) for other in ids):
        return [np.argsort(ids[0], kind="stable")] * len(ids), 0
    keys = [_keys(each) for each in ids]
    common = sorted(set.intersection(*map(set, keys)))
    if not common:
        raise UserError([f"the runs have no {split} image in common"])
    rows = [np.array([places[key] for key in common]) for places in keys]
    return rows, len(set.union(*map(set, keys))) - len(common)


def pictures(images: Images, answers: Answers, places: np.ndarray) -> np.ndarray:
    """The images at these positions of a split, uint8 [n, H, W, C]. Raises UserError if they are not those that were
    answered."""
    pixels = np.ascontiguousarray(images.pixels[images.rows[places]])
    if [identity(each) for each in pixels] != answers.ids[places].tolist():
        raise UserError([f"the {answers.split} images are not those of the answers; labbook answers RUN computes them"])
    return pixels


def _keys(ids: np.ndarray) -> dict[tuple[str, int], int]:
    """(id of an image, how many equal ones precede it) -> its position."""
    seen: dict[str, int] = {}
    found = {}
    for place, name in enumerate(ids.tolist()):
        found[name, seen.setdefault(name, 0)] = place
        seen[name] += 1
    return found
