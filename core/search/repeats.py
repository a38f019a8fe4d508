"""Trials that repeat another one with a further seed: the race of a study, as Optuna's storage holds it.

A repeat is a trial of its own, so that it is resumed, retried and recorded like any other. Its user attributes name the
trial that it repeats and the number of its seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from core.search import samplers
from core.search.objectives import Goals, amount, number
from core.search.race import Scores, Verdict, belief, challenger, verdict
from core.search.space import Space, changes

REPEATS, SEED, ERROR, DECLARED = "repeats", "seed", "error", "declaration"  # user attributes of a trial


def is_repeat(trial: FrozenTrial | optuna.Trial) -> bool:
    """Whether a trial repeats another one."""
    return REPEATS in trial.user_attrs


def firsts(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that repeat no other one."""
    return [trial for trial in trials if not is_repeat(trial)]


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial has ended, and not because its machine died."""
    return trial.state.is_finished() and (trial.state != TrialState.FAIL or ERROR in trial.user_attrs)


def scores(study: optuna.Study) -> Scores:
    """Of each complete trial, number of a seed -> score, of which more is better. A trial fails with any of its
    seeds."""
    sign = 1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1.0
    found: dict[int, dict[int, float]] = {}
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            original, seed = _named(trial)
            found.setdefault(original, {}).setdefault(seed, sign * trial.value)
    failed = {_named(trial)[0] for trial in trials if trial.state == TrialState.FAIL and ERROR in trial.user_attrs}
    return {original: each for original, each in found.items() if original not in failed}


def _named(trial: FrozenTrial) -> tuple[int, int]:
    """(number of the trial that is or is repeated, number of the seed)."""
    return trial.user_attrs.get(REPEATS, trial.number), trial.user_attrs.get(SEED, 0)


def best_of(study: optuna.Study) -> tuple[FrozenTrial, ...]:
    """Returns the completed trials, best first; with several goals, the Pareto-optimal ones; once a trial has been
    repeated, the largest expected score first."""
    if len(study.directions) > 1:
        return tuple(study.best_trials)
    trials = study.get_trials(deepcopy=False)
    if verdict_of(study):
        now = belief(scores(study))
        return tuple(trials[int(now.trials[index])] for index in (-now.mean).argsort(kind="stable"))
    done = [trial for trial in firsts(trials) if trial.state == TrialState.COMPLETE]
    maximize = study.direction == optuna.study.StudyDirection.MAXIMIZE
    return tuple(sorted(done, key=lambda t: -(t.value or 0.0) if maximize else (t.value or 0.0)))


def verdict_of(study: optuna.Study) -> Verdict | None:
    """The best trial of a race; None before a trial has been repeated."""
    if len(study.directions) > 1 or not any(map(is_repeat, study.get_trials(deepcopy=False))):
        return None
    known = scores(study)
    found = verdict(known) if known else None
    if found is None or study.direction == optuna.study.StudyDirection.MAXIMIZE:
        return found
    return replace(found, mean=-found.mean, low=-found.high, high=-found.low)


def message(study: optuna.Study, goals: Goals) -> str:
    """Describe the best trial of a race in one line; empty before a trial has been repeated."""
    found, goal = verdict_of(study), goals.names[0]
    if found is None:
        return ""
    is_fraction = number(goal, 0.0).endswith("%")
    regret = f"{100 * found.regret:.2f} points" if is_fraction else number(goal, found.regret)
    seeds = "1 seed" if found.seeds == 1 else f"{found.seeds} seeds"
    half = (found.high - found.low) / 2
    return (
        f"trial {found.trial} leads the race with {seeds}: {amount(goal, found.mean)} +- {number(goal, half)} expected "
        f"over new seeds (95 % interval); the best of {len(scores(study))} trials may be better by {regret} (expected)"
    )


def due(study: optuna.Study, most: int, ending: bool) -> int | None:
    """The number of the trial that gets the next seed, if any. ending: whether all trials have begun."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
    return challenger(scores(study), most, ending, {_named(trial)[0] for trial in running})


def repeat(study: optuna.Study, original: int) -> FrozenTrial:
    """A running trial that repeats another with its next seed; it is not in the study yet."""
    trials = study.get_trials(deepcopy=False)
    seed = 1 + max(seed for of, seed in map(_named, trials) if of == original)
    of = trials[original]
    return _running(of.params, of.distributions, of.user_attrs | {REPEATS: original, SEED: seed})


def proposal(study: optuna.Study, space: Space) -> FrozenTrial:
    """A running trial, proposed by the study's sampler as if the value of each trial were the mean of its seeds; it is
    not in the study yet."""
    means = {original: sum(each.values()) / len(each) for original, each in scores(study).items()}
    sign = 1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1.0
    known = firsts(study.get_trials())
    for trial in known:
        if trial.number in means:
            trial.value = sign * means[trial.number]
    return proposed(study, known, space)


def proposed(study: optuna.Study, known: Sequence[FrozenTrial], space: Space) -> FrozenTrial:
    """A running trial, proposed by the study's sampler as if its trials were these; it is not in the study yet."""
    told = optuna.create_study(direction=study.direction, sampler=study.sampler)
    told.add_trials(known)
    asked = told.ask()
    changes(space, lambda name, dimension: samplers.suggest(asked, name, dimension))
    return _running(asked.params, asked.distributions, {})


def _running(
    params: dict[str, Any], distributions: dict[str, BaseDistribution], attributes: dict[str, Any]
) -> FrozenTrial:
    return create_trial(state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs=attributes)


def name_of(trial: FrozenTrial | optuna.Trial) -> str:
    """How messages name a trial: trial 12, or trial 7, seed 3."""
    if is_repeat(trial):
        return f"trial {trial.user_attrs[REPEATS]}, seed {trial.user_attrs[SEED]}"
    return f"trial {trial.number}"
