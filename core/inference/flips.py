"""Images that one setting gets right and another wrong, paired by the content of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.common.errors import UserError
from core.inference.paired import paired
from core.metrics.answers import Answers


@dataclass(frozen=True)
class Flips:
    """The comparison of two settings, A and B, over the images that both have answered.

    ids, targets: of the images, [N].  before, after: share of the runs of A and of B that are right, float64 [N].
    left_out: number of images that only one of them has.  places: positions in the split of the first run of A, [N].
    said_before, said_after: the most frequent prediction of the runs of A and of B, int64 [N].
    """

    classes: tuple[str, ...]
    ids: np.ndarray
    targets: np.ndarray
    before: np.ndarray
    after: np.ndarray
    left_out: int
    places: np.ndarray
    said_before: np.ndarray
    said_after: np.ndarray

    @property
    def repaired(self) -> np.ndarray:
        """Whether more of the runs of B are right, bool [N]."""
        return self.after > self.before

    def most(self, gain: np.ndarray, limit: int) -> np.ndarray:
        """At most so many images of positive gain, the largest first, int64 [n]. gain: float64 [N]."""
        order = np.argsort(-gain, kind="stable")[:limit]
        return order[gain[order] > 0]

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
    runs = (*before, *after)
    try:
        rows, left_out = paired(runs)
    except UserError as error:
        raise UserError(f"flips: {line}" for line in error.lines) from None
    predicted = np.stack([answers.predicted[at] for answers, at in zip(runs, rows, strict=True)])
    first, targets = runs[0], runs[0].targets[rows[0]]
    right = predicted == targets
    return Flips(
        first.classes,
        first.ids[rows[0]],
        targets,
        right[: len(before)].mean(axis=0),
        right[len(before) :].mean(axis=0),
        left_out,
        rows[0],
        _most(predicted[: len(before)]),
        _most(predicted[len(before) :]),
    )


def _most(predicted: np.ndarray) -> np.ndarray:
    """The most frequent prediction for each image, int64 [N]. predicted: int64 [runs, N]."""
    return np.array([np.bincount(column).argmax() for column in predicted.T], dtype=np.int64)
