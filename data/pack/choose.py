"""Which images are packed, and into which split: duplicates are left out, and groups stay together."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from core.common.errors import DataError, UserError
from core.common.files import write_atomic
from core.common.text import natural
from core.engines.engine import Engine
from core.loading.images import Images
from core.loading.stratify import held_out, stratified
from data.check.pairs import COMPARED, blocks, least_alike, nearest
from data.folder import TEST_SEED
from data.pack.reduce import Reduced
from data.reading.layout import WHOLE
from data.reading.listing import Listing

Duplicates = Literal["near", "exact", "keep"]
PREFERENCE = {"test": 0, "val": 1}  # of copies in several splits: the one in test is kept, and training gets none
SPLIT_SEED = 0  # of the images drawn for val
SHARES = {2: ("train", "test"), 3: ("train", "val", "test")}


@dataclass
class Left:
    """Images that are left out: row -> (kind, reason)."""

    why: dict[int, tuple[str, str]] = field(default_factory=dict)

    def out(self, row: int, kind: str, reason: str) -> None:
        """Leave an image out; the first reason counts."""
        self.why.setdefault(row, (kind, reason))

    def rest(self, count: int) -> np.ndarray:
        """Rows, int64, of the images that are not left out."""
        keep = np.ones(count, bool)
        keep[list(self.why)] = False
        return np.flatnonzero(keep)


def unusable(found: Reduced, listing: Listing) -> Left:
    """The images that cannot be read, and those without a class or a split."""
    left = Left()
    for row, reason in found.reasons.items():
        left.out(row, "damaged", reason)
    for row, (split, label) in enumerate(listing.places):
        if not label or not split:
            left.out(row, "unlabeled", f"it has no {'class' if split else 'split'}")
    return left


def leave_out_copies(found: Reduced, listing: Listing, left: Left) -> None:
    """Leave out all but one of the images with the same content; and all of them if they are in different classes."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row in left.rest(len(found.rows)).tolist():
        groups[found.rows["digest"][row].tobytes()].append(row)
    for rows in groups.values():
        classes = natural({listing.places[row][1] for row in rows})
        if len(classes) > 1:
            for row in rows:
                left.out(row, "ambiguous", f"the same content is in the classes {', '.join(classes)}")
            continue
        kept, *others = _preferred(listing, rows)
        for row in others:
            left.out(row, "duplicate", f"the same content as {listing.tree.names[kept]}")


def leave_out_near(found: Reduced, listing: Listing, left: Left, engine: Engine, folder: Path) -> None:
    """Leave out images that are nearly the same as another one of the same class, or of another split.

    Each is compared with the nearest, by perceptual hash, among those that come before it in the order of preference.
    folder: of the results of the search.
    """
    from core.loading.duplicates import correlation

    order = np.array(_preferred(listing, left.rest(len(found.rows)).tolist()), np.int64)
    pairs = order[_searched(found.rows["hash"][order], engine, folder)]
    if not len(pairs):
        return
    rows, place = np.unique(pairs, return_inverse=True)
    images = Images(found.thumbs(rows), np.arange(len(rows)), np.zeros(len(rows), np.int64))
    alike = correlation(images, images, place.reshape(pairs.shape))
    least = least_alike(np.maximum(found.rows["width"][order], found.rows["height"][order]).tolist())
    for (row, other), how in zip(pairs.tolist(), alike.tolist(), strict=True):
        mine, its = listing.places[row], listing.places[other]
        if how >= least and (mine[1] == its[1] or mine[0] != its[0]):
            left.out(row, "near-duplicate", f"nearly the same as {listing.tree.names[other]} (correlation {how:.3f})")


def _preferred(listing: Listing, rows: Sequence[int]) -> list[int]:
    return sorted(rows, key=lambda row: (PREFERENCE.get(listing.places[row][0], 2), row))


def _searched(hashed: np.ndarray, engine: Engine, folder: Path) -> np.ndarray:
    """Positions, int64 [n, 2], of hashes and of the nearest before each. What was found before is read again."""
    folder.mkdir(exist_ok=True)
    name = hashlib.sha256(hashed.tobytes()).hexdigest()[:32]
    every = list(blocks(hashed, None, COMPARED))
    files = [folder / f"{name}-{number:06}.npy" for number in range(len(every))]
    missing = [number for number, file in enumerate(files) if not file.exists()]
    for number, pairs in zip(missing, engine.map(nearest, [every[number] for number in missing]), strict=True):
        stream = io.BytesIO()
        np.save(stream, pairs)
        write_atomic(files[number], stream.getvalue())
    found, start = [np.empty((0, 2), np.int64)], 0
    for block, file in zip(every, files, strict=True):
        found.append(np.load(file) + np.array([start, 0]))
        start += len(block.hashed)
    return np.concatenate(found)


def shares_of(text: str) -> dict[str, float]:
    """The splits and their shares: train and test, or train, val and test. Raises UserError."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in SHARES or min(numbers) <= 0 or abs(sum(numbers) - 1) > 1e-6:
        means = "two shares for train and test, or three for train, val and test, with the sum 1"
        raise UserError([f"--split {text}: should be {means}, such as 0.9,0.1 or 0.8,0.1,0.1"])
    return dict(zip(SHARES[len(numbers)], numbers, strict=True))


def divided(listing: Listing, rows: np.ndarray, shares: dict[str, float]) -> list[str]:
    """The split of each of these rows, drawn by class; images of a group are in the same split.

    shares: empty to keep the splits of the source. Raises DataError if it has splits and shares are given.
    """
    own = [listing.places[row][0] for row in rows.tolist()]
    if not shares:
        return own
    if given := sorted(set(own) - {WHOLE}):
        advice = "leave out --split"
        if listing.groups or listing.data == "ImageTable":
            advice += ", or add --data.split_column none to draw new ones"
        raise DataError([f"--split: the images have the splits {', '.join(given)} already; {advice}"])
    targets = np.unique(np.array([listing.places[row][1] for row in rows.tolist()]), return_inverse=True)[1]
    groups = None
    if listing.groups:
        named = np.array([str(listing.groups[row]) for row in rows.tolist()])
        groups = np.unique(named, return_inverse=True)[1]
    splits = np.full(len(rows), "train", object)
    free, rest = np.ones(len(rows), bool), 1.0
    for split, seed in (("test", TEST_SEED), ("val", SPLIT_SEED)):
        if split in shares:
            held = free.copy()
            held[free] = _held(targets[free], None if groups is None else groups[free], shares[split] / rest, seed)
            splits[held], free, rest = split, free & ~held, rest - shares[split]
    found: list[str] = splits.tolist()
    return found


def _held(targets: np.ndarray, groups: np.ndarray | None, share: float, seed: int) -> np.ndarray:
    if groups is None:
        return stratified(targets, share, seed)
    return held_out(targets[:, None] == np.unique(targets), groups, share, seed)


def as_csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """A table as CSV, in UTF-8; names that are not UTF-8 are escaped."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue().encode("utf-8", "backslashreplace")
