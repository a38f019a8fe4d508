"""Images that one setting gets right and another wrong, paired by the content of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.common.errors import UserError
from core.metrics.answers import Answers


@dataclass(frozen=True)
class Flips:
    """The comparison of two settings, A and B, over the images that both have answered.

    ids, targets: of the images, [N].  before, after: share of the runs of A and of B that are right, float64 [N].
    left_out: number of images that only one of them has.
    """

    classes: tuple[str, ...]
    ids: np.ndarray
    targets: np.ndarray
    before: np.ndarray
    after: np.ndarray
    left_out: int

    @property
    def repaired(self) -> np.ndarray:
        """Whether more of the runs of B are right, bool [N]."""
        return self.after > self.before

    @property
    def broken(self) -> np.ndarray:
        """Whether fewer of the runs of B are right, bool [N]."""
        return self.after < self.before

    def p_value(self) -> float:
        """Two-sided p of the exact McNemar test (McNemar 1947) of the hypothesis that B repairs as many images as it
        breaks; for single runs, whose training seed it does not account for."""
        from scipy.stats import binomtest

        n = int(self.repaired.sum() + self.broken.sum())
        return float(binomtest(int(self.repaired.sum()), n).pvalue) if n else 1.0


def flips(before: Sequence[Answers], after: Sequence[Answers]) -> Flips:
    """Compare the answers of the runs of two settings. Raises UserError if they have no images or classes in common."""
    first = before[0]
    for other in (*before, *after):
        if other.multi_label:
            raise UserError(["flips: it compares runs with one class for each image, and these are multi-label"])
        if other.classes != first.classes:
            raise UserError(["flips: the runs have different classes"])
    keys = [_keys(answers) for answers in (*before, *after)]
    common = sorted(set.intersection(*map(set, keys)))
    if not common:
        raise UserError([f"flips: the runs have no {first.split} image in common"])
    rows = [np.array([places[key] for key in common]) for places in keys]
    right = [(a.predicted == a.targets)[at] for a, at in zip((*before, *after), rows, strict=True)]
    return Flips(
        first.classes,
        first.ids[rows[0]],
        first.targets[rows[0]],
        np.mean(right[: len(before)], axis=0),
        np.mean(right[len(before) :], axis=0),
        len(set.union(*map(set, keys))) - len(common),
    )


def _keys(answers: Answers) -> dict[tuple[str, int], int]:
    """(id of an image, how many equal ones precede it) -> its position."""
    seen: dict[str, int] = {}
    found = {}
    for place, name in enumerate(answers.ids.tolist()):
        found[name, seen.setdefault(name, 0)] = place
        seen[name] += 1
    return found
