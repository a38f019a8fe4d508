"""Splits drawn so that each has its share of every label, whole groups at a time, one label an image or several."""

from __future__ import annotations

import numpy as np

from core import keys


def held_out(has: np.ndarray, groups: np.ndarray | None, fraction: float, seed: int) -> np.ndarray:
    """bool [N], True for about `fraction` of the images of each label, the images of a group together.

    has: bool [N, C], which labels an image has.  groups: int64 [N], the group of each; None: each is its own. Iterative
    stratification (Sechidis et al. 2011, algorithm 1), of groups in place of examples: the label that fewest of those
    left have comes first, and each goes to the side that wants more of that label. A label that two groups have comes
    to both sides, as far as other labels allow.
    """
    units, place = np.unique(np.arange(len(has)) if groups is None else groups, return_inverse=True)
    counts = np.zeros((len(units), has.shape[1] + 1))
    np.add.at(counts, place, np.column_stack([has, np.ones(len(has))]))  # the last column: images
    order = np.argsort(keys.sample_keys(seed, 0, np.arange(len(units))), kind="stable")
    return _drawn(counts[order], fraction)[np.argsort(order)][place]


def _drawn(counts: np.ndarray, fraction: float) -> np.ndarray:
    """bool [U] of units that come in the order of the draw. counts: float [U, C + 1], of labels, then of images."""
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
    """bool [N], True for about `fraction` of each class (int64 targets [N]), at least one of a class of two or more; of
    each label of several at a time (float [N, C]), the rarest first."""
    if targets.ndim == 2:
        return held_out(targets > 0, None, fraction, seed)
    order = keys.sample_keys(seed, 0, np.arange(len(targets)))
    held = np.zeros(len(targets), dtype=bool)
    for label in np.unique(targets):
        members = np.flatnonzero(targets == label)
        count = max(round(fraction * len(members)), min(1, len(members) - 1))
        held[members[np.argsort(order[members], kind="stable")[:count]]] = True
    return held
