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
MAY_BEAT = 0.1  # probability of being better than the best, below which a trial gets no further seed
FEWEST = 5  # trials with a score, before which none gets a further seed: the prior would be a guess
WEIGHT = 1.0  # of the prior of the noise, in degrees of freedom
MAD = 1.4826  # median absolute deviation -> standard deviation of a normal distribution
DRAWS = 4000


@dataclass(frozen=True)
class Belief:
    """Posterior of the mean score of each trial over seeds: Student's t with `freedom` degrees of freedom around `mean`
    with scale `scale`, float64 [T]. trials: their numbers.  seeds: how many each has, int64 [T]."""

    trials: np.ndarray
    seeds: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    freedom: float

    @property
    def best(self) -> int:
        """Index of the trial with the largest mean."""
        return int(self.mean.argmax())

    def beats_best(self) -> np.ndarray:
        """Probability that each trial is better than the best, float64 [T]; that of the best itself is 0."""
        from scipy.special import stdtr

        apart = self.mean - self.mean[self.best]
        chance = stdtr(self.freedom, apart / np.maximum(np.hypot(self.scale, self.scale[self.best]), 1e-12))
        chance[self.best] = 0.0
        return np.asarray(chance)


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
    """What the scores say of the means. scores: of at least one trial."""
    values = [np.array(list(of_trial.values())) for of_trial in scores.values()]
    count = np.array([len(each) for each in values])
    mean = np.array([each.mean() for each in values])
    center = float(np.median(mean))
    spread = MAD * float(np.median(mean[mean >= center] - center))  # of the better half: the worse has a long tail
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in values)
    freedom = WEIGHT + float((count - 1).sum())
    noise = (WEIGHT * spread**2 + squares) / freedom  # variance of a score over seeds
    prior = max(spread**2 - noise * float((1 / count).mean()), (0.1 * spread) ** 2)
    variance = 1 / np.maximum(1 / max(prior, 1e-24) + count / max(noise, 1e-24), 1e-24)
    posterior = variance * (center / max(prior, 1e-24) + count * mean / max(noise, 1e-24))
    return Belief(np.array(list(scores)), count, posterior, np.sqrt(variance), freedom)


def challenger(scores: Scores, most: int, busy: Collection[int] = ()) -> int | None:
    """The trial that gets the next seed; None if no trial may beat the best, or none has less than `most` seeds.

    Of the best and the trial that is most likely to beat it, it is the one with fewer seeds. busy: trials of which a
    seed is being trained.
    """
    if len(scores) < FEWEST:
        return None
    now = belief(scores)
    chance = now.beats_best()
    chance[now.seeds >= most] = 0.0
    rival = int(chance.argmax())
    if chance[rival] < MAY_BEAT:
        return None
    pair = [index for index in (rival, now.best) if now.seeds[index] < most and now.trials[index] not in busy]
    return int(now.trials[min(pair, key=lambda index: now.seeds[index])]) if pair else None


def verdict(scores: Scores) -> Verdict:
    """Choose the best trial. scores: of at least one trial.

    The regret is the mean of (largest of the means of all trials) - (mean of this trial) over draws from the posterior.
    """
    from scipy.stats import t

    now = belief(scores)
    best = now.best
    half = float(t.ppf(0.975, now.freedom)) * now.scale[best]
    draws = now.mean + now.scale * np.random.default_rng(0).standard_t(now.freedom, (DRAWS, len(now.mean)))
    regret = float((draws.max(axis=1) - draws[:, best]).mean())
    mean = float(now.mean[best])
    return Verdict(int(now.trials[best]), int(now.seeds[best]), mean, mean - half, mean + half, regret)
