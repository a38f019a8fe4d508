"""Duplicates by file content, and near-duplicates by perceptual hash."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from core.engines.engine import Engine
from core.loading.images import Images
from data.check.survey import Survey

SECONDS = 120.0  # time limit of the search for near-duplicates, which is quadratic in the number of images
_COMPARED = 1 << 22  # pairs compared at a time, to bound the memory
COMPARED = 1 << 32  # pairs compared by a task of an engine, some seconds of work


@dataclass(frozen=True)
class Pair:
    """Rows of two similar images; the first is in the later split.  alike: correlation of their gray thumbnails."""

    one: int
    other: int
    alike: float


@dataclass(frozen=True)
class Near:
    """Near-duplicates.  across, within: pairs of different splits and of the same split, most similar first.
    looked: number of images searched for.  total: number of images."""

    across: tuple[Pair, ...]
    within: tuple[Pair, ...]
    looked: int
    total: int


def same(found: Survey) -> list[tuple[int, ...]]:
    """Groups of at least two rows of images with identical content."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, one in found.seen.items():
        groups[one.digest].append(row)
    return [tuple(rows) for rows in groups.values() if len(rows) > 1]


def near(found: Survey, splits: Sequence[str], seconds: float = SECONDS, engine: Engine | None = None) -> Near:
    """Pair each image with the nearest image of each other split, and with the nearest earlier image of its own split,
    if they are similar.

    splits: split of each row.  engine: searches without a time limit; None: this process does.  Images with identical
    content, which `same` finds, are used once per split.
    """
    from core.loading.duplicates import correlation, hashes

    until = time.monotonic() + seconds
    rows = _once(found, splits)
    images = Images(found.thumbs, rows, np.zeros(len(rows), np.int64))
    hashed = hashes(images)
    order = {"train": 0, "val": 1, "test": 2}
    named = sorted(set(splits), key=lambda name: (order.get(name, 3), name))
    places = {name: np.array([at for at, row in enumerate(rows) if splits[row] == name], np.int64) for name in named}
    least = least_alike([max(one.width, one.height) for one in found.seen.values()])
    looked = np.zeros(len(rows), bool)

    def alike(rows_a: np.ndarray, rows_b: np.ndarray | None) -> list[Pair]:
        pairs, count = _nearest(hashed, rows_a, rows_b, until, engine)
        if rows_b is None:
            looked[rows_a[:count]] = True
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
    """Rows, int64, of the first image of each content in each split."""
    first: dict[tuple[bytes, str], int] = {}
    for row, one in found.seen.items():
        first.setdefault((one.digest, splits[row]), row)
    return np.array(list(first.values()), np.int64)


@dataclass(frozen=True)
class Block:
    """Hashes that are searched for: hashed, uint64 [n], each among `others`, uint64 [m].

    own: `others` ends with `hashed`, of which each is searched for among those before it.
    """

    hashed: np.ndarray
    others: np.ndarray
    own: bool


def nearest(block: Block) -> np.ndarray:
    """The nearest of `others` for each of `hashed`, if at most NEAR bits differ: int64 [n, 2], positions in both."""
    from core.loading.duplicates import NEAR

    found = [np.empty((0, 2), np.int64)]
    before = len(block.others) - len(block.hashed)
    step = max(1, _COMPARED // max(1, len(block.others)))
    for start in range(0, len(block.hashed) if len(block.others) else 0, step):
        some = block.hashed[start : start + step]
        others = block.others[: before + start + len(some)] if block.own else block.others
        apart = np.bitwise_count(some[:, None] ^ others)
        if block.own:
            apart[:, before + start :][np.triu_indices(len(some))] = 255  # excludes the image itself and later ones
        column = apart.argmin(axis=1)
        near = np.flatnonzero(apart[np.arange(len(some)), column] <= NEAR)
        found.append(np.stack([start + near, column[near]], axis=1))
    return np.concatenate(found)


def blocks(hashed: np.ndarray, others: np.ndarray | None, compared: int) -> Iterator[Block]:
    """Divide a search into blocks of about so many pairs.

    hashed: uint64 [n].  others: uint64 [m]; None: of `hashed`, those before each.
    """
    step = max(1, compared // max(1, len(hashed if others is None else others)))
    for start in range(0, len(hashed), step):
        some = hashed[start : start + step]
        yield Block(some, hashed[: start + len(some)] if others is None else others, others is None)


def _nearest(
    hashed: np.ndarray, rows_a: np.ndarray, rows_b: np.ndarray | None, until: float, engine: Engine | None
) -> tuple[np.ndarray, int]:
    """(pairs, count): the nearest of `rows_b` for each of `rows_a`, int64 [n, 2], and the number of `rows_a` searched
    for until the time `until`, or by the engine, which has no limit.

    rows_b: None for the images of `rows_a` before each image.
    """
    found, start = [np.empty((0, 2), np.int64)], 0
    others = rows_a if rows_b is None else rows_b
    how = hashed[rows_a], None if rows_b is None else hashed[rows_b], COMPARED if engine else _COMPARED
    every = list(blocks(*how)) if len(others) else []
    in_time = itertools.takewhile(lambda block: time.monotonic() < until, every)
    for block, pairs in zip(every, engine.map(nearest, every) if engine else map(nearest, in_time), strict=False):
        found.append(np.stack([rows_a[start + pairs[:, 0]], others[pairs[:, 1]]], axis=1))
        start += len(block.hashed)
    return np.concatenate(found), start


def least_alike(sides: Sequence[int]) -> float:
    """The least correlation of near-duplicates among images with these longer sides, in pixels."""
    from core.loading.duplicates import ALIKE, SAME, SMALL

    return SAME if len(sides) and np.median(sides) <= SMALL else ALIKE


def _joined(lists: list[list[Pair]]) -> tuple[Pair, ...]:
    return tuple(sorted(itertools.chain(*lists), key=lambda pair: (-pair.alike, pair.one, pair.other)))
