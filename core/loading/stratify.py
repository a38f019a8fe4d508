"""Stratified splits and folds, for single-label and multi-label images, optionally keeping groups together."""

from __future__ import annotations

import numpy as np

from core import randomness


def held_out(has: np.ndarray, groups: np.ndarray | None, fraction: float, seed: int) -> np.ndarray:
    """Choose about `fraction` of the images of each label, keeping groups together, bool [N].

    has: bool [N, C], the labels of each image.  groups: int64 [N], the group of each image; None: no groups. Iterative
    stratification (Sechidis et al. 2011, algorithm 1), applied to groups instead of examples: the label with the fewest
    remaining groups is distributed first, each group going to the side that needs more of this label. A label of two or
    more groups occurs on both sides, as far as other labels allow.
    """
    units, place = np.unique(np.arange(len(has)) if groups is None else groups, return_inverse=True)
    counts = np.zeros((len(units), has.shape[1] + 1))
    np.add.at(counts, place, np.column_stack([has, np.ones(len(has))]))  # the last column: images
    order = np.argsort(randomness.sample_keys(seed, 0, np.arange(len(units))), kind="stable")
    return _drawn(counts[order], fraction)[np.argsort(order)][place]


def _drawn(counts: np.ndarray, fraction: float) -> np.ndarray:
    """Assign groups, in random order, to the sides of the split, bool [U]. counts: float [U, C + 1], number of images
    of each label, then of all images."""
    total, shared = counts.sum(axis=0), (counts > 0).sum(axis=0) > 1
    wanted = np.stack([(1 - fraction) * total, fraction * total])
    wanted[1, shared] = np.maximum(wanted[1, shared], 1.0)
    wanted[0] = total - wanted[1]
    held, free = np.zeros(len(counts), dtype=bool), np.ones(len(counts), dtype=bool)
    while free.any():
        left = (counts[free, :-1] > 0).sum(axis=0)
        label = int(np.where(left > 0, left, np.inf).argmin()) if left.any() else -1
        members = np.flatnonzero(free & (counts[:, label] > 0))
        for unit in members:
            rest, ours = wanted[:, label]
            side = int(ours > rest or (ours == rest and wanted[1, -1] > wanted[0, -1]))
            wanted[side] -= counts[unit]
            held[unit] = side
        free[members] = False
    return held


def stratified(targets: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose about `fraction` of the images of each class, at least one of a class with two or more images, bool [N].
    targets: int64 [N]; or float [N, C] for multi-label images, where the rarest labels are distributed first."""
    if targets.ndim == 2:
        return held_out(targets > 0, None, fraction, seed)
    order = randomness.sample_keys(seed, 0, np.arange(len(targets)))
    held = np.zeros(len(targets), dtype=bool)
    for label in np.unique(targets):
        members = np.flatnonzero(targets == label)
        count = max(round(fraction * len(members)), min(1, len(members) - 1))
        held[members[np.argsort(order[members], kind="stable")[:count]]] = True
    return held


def dealt(labels: np.ndarray, keys: np.ndarray, folds: int) -> np.ndarray:
    """Deal images into folds, int64 [N], from 0: the number of images of a class differs by at most one between folds,
    and so does the number of all images. labels: int64 [N].  keys: int64 [N], the random order within a class."""
    found = np.empty(len(labels), np.int64)
    found[np.lexsort((keys, labels))] = np.arange(len(labels)) % folds
    return found


def divided(targets: np.ndarray, place: np.ndarray, keys: np.ndarray, folds: int) -> np.ndarray:
    """Divide groups into stratified folds, as scikit-learn's StratifiedGroupKFold, int64 [N], from 0, for each image.

    targets: int64 [N], or float [N, C], multi-label.  place: int64 [N], the group of each image.  keys: int64 [U], the
    random order of groups of the same size. Each group, the largest first, goes to the fold that has the smallest
    shares of its labels and of all images.
    """
    has = (targets > 0 if targets.ndim == 2 else targets[:, None] == np.unique(targets)).astype(np.int64)
    counts = np.zeros((len(keys), has.shape[1] + 1), np.int64)
    np.add.at(counts, place, np.column_stack([has, np.ones(len(has), np.int64)]))  # the last column: images
    side = np.empty(len(keys), np.int64)
    weights = (1 << 30) // np.maximum(counts.sum(axis=0), 1)  # integers: ties are the same on every machine
    filled = np.zeros((folds, counts.shape[1]), np.int64)
    for unit in np.lexsort((keys, -counts[:, -1])):
        side[unit] = (filled * weights * counts[unit]).sum(axis=1).argmin()
        filled[side[unit]] += counts[unit]
    found: np.ndarray = side[place]
    return found
