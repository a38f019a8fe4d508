"""The pruner thaw: trials pause at a rung with a checkpoint, and any of them may be resumed.

Rungs are a third, a ninth, and a 27th of the epochs. The rule is that of asynchronous successive halving (Li et al.
2020, A system for massively parallel hyperparameter tuning, section 3): the best third of the trials that reached a
rung continues to the next one, and a new trial begins where no paused one is due. As in freeze-thaw Bayesian
optimization (Swersky et al. 2014), a paused trial is not lost: it falls due once enough worse ones have reached its
rung. Replayed on the bank of runs (tests/bank), curves that were extrapolated by regression from rung to rung, and the
improvement per epoch that they promised, chose worse than these ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from core.search.repeats import DECLARED, proposed
from core.search.space import Space

PAUSED = "paused"  # user attribute of a running trial: the epoch after which it was paused; 0 once it is resumed
_SHARE = 3  # one of so many trials continues from a rung to the next one
Reached = Mapping[int, Mapping[int, float]]  # trial -> epoch -> score so far, of which more is better


def rungs(epochs: int) -> tuple[int, ...]:
    """The epochs after which a trial may pause, in ascending order; none if there is a single epoch."""
    shares = (round(epochs / _SHARE**power) for power in (1, 2, 3))
    return tuple(sorted({epoch for epoch in shares if 0 < epoch < epochs}))


def due(reached: Reached, paused: Mapping[int, int], levels: Sequence[int], ending: bool) -> int | None:
    """The number of the paused trial that is resumed next; None if a new trial should begin.

    It is the best of those that are paused at the highest rung where one is among the best third of all trials that
    reached this rung; the third is rounded up once all trials have begun. Of equal trials, the earlier one is better.

    paused: trial -> rung where it waits.  levels: the rungs.  ending: whether all trials have begun.
    """
    for level in reversed(levels):
        here = sorted((-scores[level], trial) for trial, scores in reached.items() if level in scores)
        count = math.ceil(len(here) / _SHARE) if ending else len(here) // _SHARE
        for _, trial in here[:count]:
            if paused.get(trial) == level:
                return trial
    return None


def due_in(study: optuna.Study, epochs: int, best: bool, ending: bool, pausing: Sequence[int] = ()) -> int | None:
    """The number of the paused trial of a study that is resumed next, if any.

    epochs: of a trial that is trained to the end.  best: a trial is ranked by its best value so far, and not by the
    present one.  ending: whether all trials have begun.  pausing: trials that are taken to be paused, too.
    """
    levels = rungs(epochs)
    every = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.COMPLETE))
    known = [trial for trial in every if not trial.user_attrs.get(DECLARED)]  # which is always trained to the end
    sign = 1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1.0
    reached = {trial.number: _scores(trial.intermediate_values, levels, sign, best) for trial in known}
    waiting = {trial.number: trial.user_attrs[PAUSED] for trial in known if is_paused(trial)}
    return due(reached, waiting | {number: max(reached[number]) for number in pausing}, levels, ending)


def _scores(values: Mapping[int, float], levels: Sequence[int], sign: float, best: bool) -> dict[int, float]:
    """Rung that was reached -> score there; that of a value that is NaN is the worst."""
    scores = {epoch: -math.inf if math.isnan(value) else sign * value for epoch, value in values.items()}
    return {
        level: max(score for epoch, score in scores.items() if epoch == level or (best and epoch < level))
        for level in levels
        if level in scores
    }


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial waits at a rung."""
    return trial.state == TrialState.RUNNING and bool(trial.user_attrs.get(PAUSED))


def proposal(study: optuna.Study, space: Space) -> FrozenTrial:
    """A running trial, proposed by the study's sampler as if the paused trials were pruned; it is not in the study
    yet."""
    known = study.get_trials()
    for trial in filter(is_paused, known):
        trial.state, trial.datetime_complete = TrialState.PRUNED, trial.datetime_start
    return proposed(study, known, space)
