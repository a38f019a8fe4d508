"""The same picture twice: by content, and nearly, by perceptual hash."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.loading.images import Images
from data.check.survey import Survey

SECONDS = 120.0  # that the search for near-duplicates may take: it grows with the square of the images
_COMPARED = 1 << 22  # at a time: bounds the memory


@dataclass(frozen=True)
class Pair:
    """Rows of two images, the first of the later split.  alike: correlation of their gray thumbnails."""

    one: int
    other: int
    alike: float


@dataclass(frozen=True)
class Near:
    """across, within: pairs of two splits, and of one; most alike first.  looked: how many images were looked up."""

    across: tuple[Pair, ...]
    within: tuple[Pair, ...]
    looked: int
    total: int


def same(found: Survey) -> list[tuple[int, ...]]:
    """Rows of the images that have one content, at least two each."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, one in found.seen.items():
        groups[one.digest].append(row)
    return [tuple(rows) for rows in groups.values() if len(rows) > 1]


def near(found: Survey, splits: Sequence[str], seconds: float = SECONDS) -> Near:
    """Each image with the nearest in another split, and with the nearest before it in its own, where they are alike.

    splits: of each row.  Images of one content count once in a split: `same` tells them.
    """
    from core.loading.duplicates import ALIKE, NEAR, SAME, SMALL, correlation, hashes

    until = time.monotonic() + seconds
    rows = _once(found, splits)
    images = Images(found.thumbs, rows, np.zeros(len(rows), np.int64))
    hashed = hashes(images)
    order = {"train": 0, "val": 1, "test": 2}
    named = sorted(set(splits), key=lambda name: (order.get(name, 3), name))
    places = {name: np.array([at for at, row in enumerate(rows) if splits[row] == name], np.int64) for name in named}
    sides = [max(one.width, one.height) for one in found.seen.values()]
    least = SAME if sides and np.median(sides) <= SMALL else ALIKE
    looked = np.zeros(len(rows), bool)

    def alike(ours: np.ndarray, theirs: np.ndarray | None) -> list[Pair]:
        pairs, count = _nearest(hashed, ours, theirs, NEAR, until)
        if theirs is None:
            looked[ours[:count]] = True
        similar = correlation(images, images, pairs)
        best = sorted(zip(-similar, rows[pairs[:, 0]].tolist(), rows[pairs[:, 1]].tolist(), strict=True))
        return [
            Pair(one, other, -negative)
            for negative, one, other in best
            if -negative >= least and found.seen[one].digest != found.seen[other].digest
        ]

    between = [alike(places[later], places[sooner]) for sooner, later in itertools.combinations(named, 2)]
    inside = [alike(places[name], None) for name in named]
    return Near(_joined(between), _joined(inside), int(looked.sum()), len(rows))


def _once(found: Survey, splits: Sequence[str]) -> np.ndarray:
    """Rows int64, the first of each content in each split."""
    first: dict[tuple[bytes, str], int] = {}
    for row, one in found.seen.items():
        first.setdefault((one.digest, splits[row]), row)
    return np.array(list(first.values()), np.int64)


def _nearest(
    hashed: np.ndarray, ours: np.ndarray, theirs: np.ndarray | None, most: int, until: float
) -> tuple[np.ndarray, int]:
    """Of each of ours the nearest of theirs, of at most `most` bits' difference: int64 [n, 2]; and how many of ours
    were looked up until then. theirs: None for those of ours that stand before it."""
    found, start = [np.empty((0, 2), np.int64)], 0
    others = ours if theirs is None else theirs
    step = max(1, _COMPARED // max(1, len(others)))
    while start < len(ours) and len(others) and time.monotonic() < until:
        mine = hashed[ours[start : start + step]]
        until_row = start + len(mine) if theirs is None else len(others)
        apart = np.bitwise_count(mine[:, None] ^ hashed[others[:until_row]])
        if theirs is None:
            apart[:, start:][np.triu_indices(len(mine))] = 255  # neither with itself nor with what follows
        column = apart.argmin(axis=1)
        near = np.flatnonzero(apart[np.arange(len(mine)), column] <= most)
        found.append(np.stack([ours[start + near], others[column[near]]], axis=1))
        start += len(mine)
    return np.concatenate(found), start


def _joined(lists: list[list[Pair]]) -> tuple[Pair, ...]:
    return tuple(sorted(itertools.chain(*lists), key=lambda pair: (-pair.alike, pair.one, pair.other)))
