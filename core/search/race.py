"""Racing: which trial gets a further seed, and what the seeds so far say of the best one. Pure functions of scores.

A trial's score depends on its seed. As in SMAC's intensification (Hutter et al. 2011, section 3.2; Lindauer et al.
2022), all trials are trained with the same first seed, and a trial gets further ones only while it may still beat the
best, which is trained with them, too. What is believed of the trials is the posterior of a normal model whose prior and
noise are estimated from the study itself (empirical Bayes; Efron and Morris 1975). It shrinks the mean of few seeds
toward that of all trials, because the largest of many scores is in part the luckiest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

Scores = Mapping[int, Mapping[int, float]]  # trial -> number of the seed, from 0 -> score, of which more is better
# Probability of being better than the best, below which a trial gets no further seed: while trials have yet to begin,
# which are often worth more than a seed, and afterwards. Tuned on the bank of runs (tests/bank).
WHILE_TRIALS_BEGIN, AT_THE_END = 0.3, 0.1
FEWEST = 5  # trials with a score, before which none gets a further seed: the prior would be a guess
COMMON, OWN = 2.0, 4.0  # weights of the prior of the noise, and of the noise of all in that of a trial, in scores
DRAWS = 2000


@dataclass(frozen=True)
class Belief:
    """Posterior of the mean score of each trial over seeds: Student's t around `mean` with a scale and degrees of
    freedom, float64 [T] each. trials: their numbers.  seeds: how many each has, int64 [T]."""

    trials: np.ndarray
    seeds: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    freedom: np.ndarray

    @property
    def best(self) -> int:
        """Index of the trial with the largest mean."""
        return int(self.mean.argmax())

    def against_best(self) -> tuple[np.ndarray, np.ndarray]:
        """(probability that each trial is better than the best, by how much it is expected to be better where it is),
        of a normal distribution, float64 [T] each; those of the best itself are 0."""
        from scipy.special import ndtr

        scale = np.maximum(np.hypot(self.scale, self.scale[self.best]), 1e-12)
        apart = (self.mean - self.mean[self.best]) / scale
        chance = ndtr(apart)
        gain = scale * (apart * chance + np.exp(-(apart**2) / 2) / np.sqrt(2 * np.pi))
        chance[self.best] = gain[self.best] = 0.0
        return chance, gain


@dataclass(frozen=True)
class Verdict:
    """The best trial of a race. mean, low, high: posterior mean and 95 % interval of its score over new seeds.  regret:
    by how much the best of all trials is expected to be better than this one, over new seeds."""

    trial: int
    seeds: int
    mean: float
    low: float
    high: float
    regret: float


def belief(scores: Scores) -> Belief:
    """What the scores say of the means. scores: of at least one trial.

    The prior has the median of the trials and the spread of the better half, since the worse half has a long tail. The
    noise of a trial is estimated from its own seeds and from those of all.
    """
    values = [np.array(list(of_trial.values())) for of_trial in scores.values()]
    count = np.array([len(each) for each in values])
    mean = np.array([each.mean() for each in values])
    squares = np.array([((each - each.mean()) ** 2).sum() for each in values])
    center = float(np.median(mean))
    better = mean[mean >= center] - center
    spread = max(float((better**2).sum() / max(len(better) - 1, 1)), 1e-24)  # of scores: of means, and of noise
    common = (COMMON * spread + squares.sum()) / (COMMON + (count - 1).sum())
    noise = (OWN * common + squares) / (OWN + count - 1)
    prior = max(spread - common * float((1 / count).mean()), spread / 2)
    variance = 1 / (1 / prior + count / noise)
    posterior = variance * (center / prior + count * mean / noise)
    return Belief(np.array(list(scores)), count, posterior, np.sqrt(variance), OWN + count - 1)


def challenger(scores: Scores, most: int, ending: bool, busy: Collection[int] = ()) -> int | None:
    """The trial that gets the next seed; None if no trial may beat the best, or all that may have `most` seeds.

    Of the best and the trial that is expected to beat it by most, it is the one with fewer seeds. ending: whether all
    trials have begun.  busy: trials of which a seed is being trained.
    """
    if len(scores) < FEWEST:
        return None
    now = belief(scores)
    chance, gain = now.against_best()
    for rival in (-gain).argsort():
        if chance[rival] < (AT_THE_END if ending else WHILE_TRIALS_BEGIN):
            continue
        pair = [index for index in (rival, now.best) if now.seeds[index] < most and now.trials[index] not in busy]
        if pair:
            return int(now.trials[min(pair, key=lambda index: now.seeds[index])])
    return None


def verdict(scores: Scores) -> Verdict:
    """Choose the best trial. scores: of at least one trial.

    The regret is the mean of (largest of the means of all trials) - (mean of this trial) over draws from a
    normal distribution of the posterior's means and scales.
    """
    from scipy.stats import t

    now = belief(scores)
    best = now.best
    half = float(t.ppf(0.975, now.freedom[best]) * now.scale[best])
    draws = now.mean + now.scale * np.random.default_rng(0).standard_normal((DRAWS, len(now.mean)))
    regret = float((draws.max(axis=1) - draws[:, best]).mean())
    mean = float(now.mean[best])
    return Verdict(int(now.trials[best]), int(now.seeds[best]), mean, mean - half, mean + half, regret)
