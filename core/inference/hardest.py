"""The hardest images of a split: those that most of several runs get wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.inference.paired import paired
from core.metrics.answers import Answers


@dataclass(frozen=True)
class Hardest:
    """Images that some runs get wrong, the hardest first: of equally many right runs, the one whose target has the
    smaller logit, relative to the largest.

    runs: number of runs.  places: positions in the split of the first run, int64 [n].  targets: int64 [n].  right:
    number of runs that are right, int64 [n].  said: the most frequent wrong prediction, int64 [n].
    """

    classes: tuple[str, ...]
    runs: int
    places: np.ndarray
    targets: np.ndarray
    right: np.ndarray
    said: np.ndarray

    def captions(self) -> list[str]:
        """What is said of each image: 3: 1 of 5 right, 8."""
        columns = zip(self.targets.tolist(), self.right.tolist(), self.said.tolist(), strict=True)
        return [f"{self.classes[t]}: {right} of {self.runs} right, {self.classes[s]}" for t, right, s in columns]


def hardest(runs: Sequence[Answers], most: int) -> Hardest:
    """At most so many of the hardest images. Raises UserError as `paired` does."""
    rows, _ = paired(runs)
    targets = runs[0].targets[rows[0]]
    predicted = np.stack([answers.predicted[at] for answers, at in zip(runs, rows, strict=True)])
    right = (predicted == targets).sum(axis=0)
    own = np.mean([_own(answers)[at] for answers, at in zip(runs, rows, strict=True)], axis=0)
    wrong = np.flatnonzero(right < len(runs))
    shown = wrong[np.lexsort((own[wrong], right[wrong]))[:most]]
    said = [
        np.bincount(column[column != target]).argmax()
        for column, target in zip(predicted.T[shown], targets[shown], strict=True)
    ]
    return Hardest(
        runs[0].classes, len(runs), rows[0][shown], targets[shown], right[shown], np.array(said, dtype=np.int64)
    )


def _own(answers: Answers) -> np.ndarray:
    """The logit of each target, relative to the largest logit, [N]."""
    own = answers.own
    if own is None:
        own = np.take_along_axis(answers.logits, answers.targets[:, None], axis=1)[:, 0]
    margin: np.ndarray = own - answers.logits.max(axis=1)
    return margin
