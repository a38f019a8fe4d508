"""A program that edits a setting in a loop, and keeps what a rule accepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from core.compare.sequential import Rule, deciding_look

Score = Callable[[int, int], float]  # (edit, seed) -> a metric of which larger values are better; edit 0 is the start
Accepts = Callable[[Score, int, int], bool]  # (scores, edit, the edit that is kept so far)


def kept(score: Score, edits: Sequence[int], accepts: Accepts) -> list[int]:
    """The edits that are kept, each over the one that was kept before it."""
    found, base = [], 0
    for edit in edits:
        if accepts(score, edit, base):
            found.append(edit)
            base = edit
    return found


def accepted(rule: Rule, resolution: float = 0.0) -> Accepts:
    """As `labbook accept`: further seeds until it is decided, and yes if the edit is shown to be better. resolution:
    the step between scores, see `difference`."""

    def accepts(score: Score, edit: int, base: int) -> bool:
        a, b = ({seed: score(one, seed) for seed in range(rule.budget)} for one in (edit, base))
        look = deciding_look(a, b, rule, resolution)
        return look is not None and look.verdict == "shown" and look.mean > 0

    return accepts


def better(score: Score, edit: int, base: int) -> bool:
    """Keep if better, by one run of each."""
    return score(edit, 0) > score(base, 0)


def drawn(number: int, edits: int, seeds: int, gain: float = 0.0) -> Score:
    """Scores of edits that change nothing: 2 points of deviation that a seed has in common, and 1 point of each run.
    number: of the drawing.  gain: what every tenth edit adds for good."""
    random = np.random.default_rng(number)
    scores = 0.9 + random.normal(0, 0.02, seeds) + random.normal(0, 0.01, (edits + 1, seeds))
    scores += gain * (np.arange(edits + 1) // 10)[:, None]
    return lambda edit, seed: float(scores[edit, seed])
