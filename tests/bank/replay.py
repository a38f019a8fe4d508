"""Rules of a search, replayed on the bank without training: what they choose, after how many epochs.

A seed of a trial is drawn from those of the bank with replacement, so that the mean of the bank over its seeds is the
true mean of a declaration over new seeds. A declaration that is drawn again at random is another trial with seeds of
its own: in a real space it would be a close neighbor, and in the bank runs of the same seed have no luck in common.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import optuna

from core.search import race, samplers, thaw
from core.search.space import Choice, Float, changes, dimensions
from tests.bank.declared import SPACE, declarations, digest, parameters
from tests.bank.trained import path_of, read

MOST = 32  # seeds that a trial may use


@dataclass(frozen=True)
class Bank:
    """val/accuracy after each epoch, float64 [declarations, seeds, epochs]; 0 after a run that failed."""

    curves: np.ndarray

    @cached_property
    def scores(self) -> np.ndarray:
        """The best epoch of each run, as a study scores it, float64 [declarations, seeds]."""
        return np.asarray(self.curves.max(axis=2))

    @cached_property
    def means(self) -> np.ndarray:
        """The true mean of each declaration, float64 [declarations]."""
        return np.asarray(self.scores.mean(axis=1))

    @property
    def epochs(self) -> int:
        """Epochs of a run."""
        return int(self.curves.shape[2])

    def regret(self, chosen: int) -> float:
        """By how much the best declaration of the bank is better, over seeds."""
        return float(self.means.max() - self.means[chosen])


def load(folder: Path) -> Bank:
    """The bank in a folder, of as many seeds as all of its declarations have."""
    experiments = declarations()
    text = digest(experiments)
    rows = [read(path_of(folder, number), text)["val/accuracy"] for number in range(len(experiments))]
    seeds = min(map(len, rows))
    return Bank(np.nan_to_num(np.stack([row[:seeds] for row in rows]).astype(float)))


def write_for_smac(folder: Path, out: Path) -> None:
    """Write what tests/bank/smac_reference.py reads in an environment without labbook."""
    bank = load(folder)
    named = {
        name: {"options": list(dimension.options)}
        if isinstance(dimension, Choice)
        else {"low": dimension.low, "high": dimension.high, "log": dimension.log}
        for name, dimension in dimensions(SPACE).items()
        if isinstance(dimension, Choice | Float)
    }
    text = json.dumps({"dimensions": named, "parameters": PARAMETERS, "epochs": bank.epochs})
    np.savez(out, scores=bank.scores, space=np.array(text))


@dataclass(frozen=True)
class Told:
    """What a sampler knows of a trial. value: of a complete one.  step, now: of a pruned one, its last epoch."""

    declaration: int
    value: float | None
    step: int = 0
    now: float = 0.0


class Proposals(Protocol):
    """Proposes declarations."""

    def __call__(self, told: list[Told]) -> int: ...


def at_random(bank: Bank, rng: np.random.Generator) -> Proposals:
    """Any declaration; first the one that the space is around."""
    return lambda told: int(rng.integers(len(bank.means))) if told else 0


@dataclass
class Tpe:
    """labbook's TPE, which is told the declarations that are the nearest to what it proposed, each once while there are
    others; the first one is that which the space is around, as in a study."""

    rng: np.random.Generator

    def __call__(self, told: list[Told]) -> int:
        if not told:
            return 0
        study = optuna.create_study(
            direction="maximize", sampler=samplers.sampler("tpe", int(self.rng.integers(2**32)))
        )
        study.add_trials([_frozen(each) for each in told])
        trial = study.ask()
        changes(SPACE, lambda name, dimension: samplers.suggest(trial, name, dimension))
        tried = {each.declaration for each in told}
        return nearest(trial.params, tried if len(tried) < len(PARAMETERS) else set())


PARAMETERS = parameters()
DISTRIBUTIONS = {
    name: optuna.distributions.CategoricalDistribution(list(dimension.options))
    if isinstance(dimension, Choice)
    else optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    for name, dimension in dimensions(SPACE).items()
    if isinstance(dimension, Choice | Float)
}


def _frozen(told: Told) -> optuna.trial.FrozenTrial:
    state = optuna.trial.TrialState
    params = PARAMETERS[told.declaration]
    return optuna.trial.create_trial(
        state=state.PRUNED if told.value is None else state.COMPLETE,
        value=told.value,
        params=params,
        distributions={name: DISTRIBUTIONS[name] for name in params},
        intermediate_values={told.step: told.now} if told.value is None else {},
    )


def nearest(params: dict[str, object], tried: set[int]) -> int:
    """The declaration that is nearest to a point and was not tried: a dimension counts by its share of the range, or 1
    where a choice differs or one of the two lacks it."""

    def apart(number: int) -> float:
        return sum(_apart(name, params, PARAMETERS[number]) for name in {*params, *PARAMETERS[number]})

    return min((number for number in range(len(PARAMETERS)) if number not in tried), key=apart)


def _apart(name: str, one: dict[str, object], other: dict[str, object]) -> float:
    a, b, dimension = one.get(name), other.get(name), DISTRIBUTIONS[name]
    if not (isinstance(a, float) and isinstance(b, float)):
        return float(a != b)
    low, high = dimension.low, dimension.high
    return abs(np.log(a / b) / np.log(high / low)) if dimension.log else abs(a - b) / (high - low)


@dataclass(frozen=True)
class Found:
    """What a rule chose."""

    declaration: int
    epochs: int
    trials: int
    verdict: race.Verdict | None = None
    tried: frozenset[int] = frozenset()  # declarations that were trained to the end


@dataclass
class Replay:
    """A study in replay. trials: of today's search, which the patience of its pruner depends on."""

    bank: Bank
    propose: Proposals
    rng: np.random.Generator
    budget: float
    trials: int
    spent: int = 0
    told: list[Told] = field(default_factory=list)
    complete: list[np.ndarray] = field(default_factory=list)
    best: list[tuple[int, float]] = field(default_factory=list)  # (epochs spent, best value)

    def pay(self, epochs: int) -> bool:
        """Whether the budget pays for so many more."""
        if self.spent + epochs > self.budget:
            return False
        self.spent += epochs
        return True

    def trial(self, length: Callable[[np.ndarray], int]) -> bool:
        """Train one more trial with the first seed for as many epochs as `length` tells of its curve; whether the
        budget allowed it."""
        number = self.propose(self.told)
        curve = self.bank.curves[number, self.rng.integers(self.bank.curves.shape[1])]
        epochs = length(curve)
        epochs = epochs if self.told else len(curve)  # the declaration itself is never pruned
        if not self.pay(epochs):
            return False
        if epochs < len(curve):
            self.told.append(Told(number, None, epochs, float(curve[epochs - 1])))
            return True
        self.told.append(Told(number, float(curve.max())))
        self.complete.append(curve)
        self.best.append((self.spent, max([float(curve.max()), *(value for _, value in self.best[-1:])])))
        return True

    def median(self, curve: np.ndarray) -> int:
        """Epochs after which the median pruner of labbook ends a curve, or all of them."""
        startup, warm = min(10, max(5, self.trials // 6)), max(1, len(curve) // 4)
        if len(self.complete) < startup:
            return len(curve)
        worse = np.maximum.accumulate(curve) < np.median(self.complete, axis=0)
        late = np.flatnonzero(worse[warm - 1 : -1])
        return int(warm + late[0]) if len(late) else len(curve)

    def score(self, trial: int) -> float:
        """Of a trial with one more seed."""
        return float(self.rng.choice(self.bank.scores[self.told[trial].declaration]))

    def complete_trials(self) -> dict[int, float]:
        """Number of each trial that was not pruned -> its score."""
        return {number: told.value for number, told in enumerate(self.told) if told.value is not None}

    def found(self, trial: int, verdict: race.Verdict | None = None) -> Found:
        """That this trial was chosen."""
        tried = frozenset(told.declaration for told in self.told if told.value is not None)
        return Found(self.told[trial].declaration, self.spent, len(self.told), verdict, tried)


def single(replay: Replay, pruned: bool = True) -> Found:
    """Today's search: one seed, the median pruner, the best score; as many trials as the budget pays for."""
    while replay.trial(replay.median if pruned else len):
        pass
    values = replay.complete_trials()
    return replay.found(max(values, key=lambda trial: values[trial]))


def confirmed(replay: Replay, best: int = 3, seeds: int = 3) -> Found:
    """Today's search, of which the best are retrained with new seeds (--confirm)."""
    kept = best * seeds * replay.bank.epochs
    replay.budget -= kept
    single(replay)
    replay.budget += kept
    values = replay.complete_trials()
    top = sorted(values, key=lambda trial: -values[trial])[:best]
    means = {
        trial: np.mean([replay.score(trial) for _ in range(seeds) if replay.pay(replay.bank.epochs)]) for trial in top
    }
    return replay.found(max(means, key=lambda trial: means[trial]))


def hyperband(replay: Replay) -> Found:
    """Today's search with Optuna's Hyperband in place of the median pruner."""
    epochs = replay.bank.epochs
    study = optuna.create_study(direction="maximize", pruner=samplers.pruner("hyperband", epochs, replay.trials))

    def length(curve: np.ndarray) -> int:
        trial = study.ask()
        for epoch, value in enumerate(curve[:-1], 1):
            trial.report(float(value), epoch)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                return epoch
        study.tell(trial, float(curve.max()))
        return len(curve)

    while replay.trial(length):
        pass
    values = replay.complete_trials()
    return replay.found(max(values, key=lambda trial: values[trial]))


def whole(replay: Replay) -> Found:
    """A study without pruning, of as many trials as the budget pays for."""
    return single(replay, pruned=False)


def thawed(replay: Replay) -> Found:
    """--pruner thaw, with new trials as long as the budget pays for them."""
    epochs, curves, best = replay.bank.epochs, {}, {}  # best: trial -> epoch -> best value so far
    levels = thaw.rungs(epochs)
    waiting: dict[int, int] = {}
    replay.trial(len)  # the declaration, to the end
    while True:
        trial = thaw.due(best, waiting, levels, ending=False)
        if trial is None:
            trial = len(replay.told)
            number = replay.propose(replay.told)
            curves[trial] = replay.bank.curves[number, replay.rng.integers(replay.bank.curves.shape[1])]
            replay.told.append(Told(number, None))
        begun = waiting.pop(trial, 0)
        then = next((level for level in levels if level > begun), epochs)
        if not replay.pay(then - begun):
            break
        value = float(curves[trial][:then].max())
        if then == epochs:
            replay.told[trial] = Told(replay.told[trial].declaration, value)
            replay.best.append((replay.spent, max(value, replay.best[-1][1])))
        else:
            best.setdefault(trial, {})[then] = value
            waiting[trial] = then
            replay.told[trial] = Told(replay.told[trial].declaration, None, then, float(curves[trial][then - 1]))
    values = replay.complete_trials()
    return replay.found(max(values, key=lambda trial: values[trial]))


def raced(replay: Replay, most: int = 8) -> Found:
    """--race: further seeds for what may beat the best, and the sampler is told means; as many trials as today's."""
    scores: dict[int, dict[int, float]] = {}
    while True:
        ending = len(replay.told) >= replay.trials
        trial = race.challenger(scores, most, ending)
        if trial is None:
            if ending or not replay.trial(replay.median):
                break
            scores |= {n: {0: value} for n, value in replay.complete_trials().items() if n not in scores}
            continue
        if not replay.pay(replay.bank.epochs):
            break
        scores[trial][len(scores[trial])] = replay.score(trial)
        mean = float(np.mean(list(scores[trial].values())))
        replay.told[trial] = Told(replay.told[trial].declaration, mean)
    found = race.verdict(scores)
    return replay.found(found.trial, found)
