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

    runs: number of runs.  ids: str [n].  places: positions in the split of the first run, int64 [n].
    targets: int64 [n].  right: number of runs that are right, int64 [n].  said: the most frequent wrong prediction,
    int64 [n].
    """

    classes: tuple[str, ...]
    runs: int
    ids: np.ndarray
    places: np.ndarray
    targets: np.ndarray
    right: np.ndarray
    said: np.ndarray

    def rows(self) -> list[tuple[str, str, int, str]]:
        """(id, class, number of runs that are right, the most frequent wrong prediction) of each image."""
        columns = (self.ids.tolist(), self.targets.tolist(), self.right.tolist(), self.said.tolist())
        return [(name, self.classes[t], right, self.classes[s]) for name, t, right, s in zip(*columns, strict=True)]

    def captions(self) -> list[str]:
        """What is said below each image: 3: 1 of 5 right, 8."""
        return [f"{target}: {right} of {self.runs} right, {said}" for _, target, right, said in self.rows()]


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
    places = rows[0][shown]
    wrongly = np.array(said, dtype=np.int64)
    return Hardest(runs[0].classes, len(runs), runs[0].ids[places], places, targets[shown], right[shown], wrongly)


def _own(answers: Answers) -> np.ndarray:
    """The logit of each target, relative to the largest logit, [N]."""
    own = answers.own
    if own is None:
        own = np.take_along_axis(answers.logits, answers.targets[:, None], axis=1)[:, 0]
    margin: np.ndarray = own - answers.logits.max(axis=1)
    return margin
