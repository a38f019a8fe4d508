"""What rules of a search choose, after how many epochs, replayed on the bank of runs (tests/bank).

    python -m tests.benchmarks.bank [FOLDER [REPLAYS [SAMPLER [TRIALS]]]]

FOLDER is that of `python -m tests.bank`; SAMPLER is tpe, or random, which takes a hundredth of the time. A study of
TRIALS trials (50) is raced with up to 8 seeds, and every other rule gets as many epochs as it took, replay by replay.
Regret: by how much the best declaration of the bank is better than the chosen one, over seeds. To reach: the race has
at most 0.6x the regret of today's search, one seed with the median pruner; its intervals cover the true mean of its
choice in at least 93 % of 500 replays; of 100 edits that change nothing, at most 5 are kept. Trials that pause need at
most 0.7x of the epochs of the median pruner until the best value of a study is within a standard error of that of a
study without pruning.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna

from core.compare.sequential import Rule, boundary
from tests.bank.replay import (
    Bank,
    Found,
    Replay,
    Tpe,
    at_random,
    confirmed,
    hyperband,
    load,
    raced,
    single,
    thawed,
    whole,
)
from tests.bank.trained import folder
from tests.support import edits as programs

IMAGES = 1079  # of the val split

RULES: dict[str, Callable[[Replay], Found]] = {
    "one seed, median pruner": single,
    "the same, --confirm 3": confirmed,
    "one seed, Hyperband": hyperband,
    "one seed, thaw": thawed,
}


def replay(bank: Bank, sampler: str, seed: int, budget: float, trials: int) -> Replay:
    """A study of this seed."""
    rng = np.random.default_rng(seed)
    return Replay(bank, Tpe(rng) if sampler == "tpe" else at_random(bank, rng), rng, budget, trials)


def line(name: str, bank: Bank, found: list[Found], base: float) -> str:
    regrets = np.array([bank.regret(each.declaration) for each in found])
    error = regrets.std(ddof=1) / len(regrets) ** 0.5
    epochs, trials = np.mean([each.epochs for each in found]), np.mean([each.trials for each in found])
    return (
        f"{name:26} {100 * regrets.mean():7.3f} +- {100 * error:.3f} {regrets.mean() / base:10.2f}x "
        f"{epochs:10,.0f} {trials:8.1f}"
    )


def main() -> None:
    words = sys.argv[1:]
    bank = load(Path(words[0]) if words else folder())
    replays = int(words[1]) if len(words) > 1 else 500
    sampler = words[2] if len(words) > 2 else "tpe"
    trials = int(words[3]) if len(words) > 3 else 50
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    began = time.process_time()
    race = [raced(replay(bank, sampler, seed, np.inf, trials)) for seed in range(replays)]
    others = {
        name: [rule(replay(bank, sampler, seed, each.epochs, trials)) for seed, each in enumerate(race)]
        for name, rule in RULES.items()
    }
    base = float(np.mean([bank.regret(each.declaration) for each in others["one seed, median pruner"]]))
    print(
        f"bank of {' x '.join(map(str, bank.curves.shape))} (declarations, seeds, epochs), {replays} replays, {sampler}"
    )
    print(f"{'rule':26} {'regret in points':>16} {'of today':>11} {'epochs':>10} {'trials':>8}")
    for name, found in {**others, "--race 8": race}.items():
        print(line(name, bank, found, base))
    verdicts = [(each.verdict, bank.means[each.declaration]) for each in race if each.verdict]
    covered = np.mean([verdict.low <= mean <= verdict.high for verdict, mean in verdicts])
    half = np.mean([verdict.high - verdict.low for verdict, _ in verdicts]) / 2
    told = np.mean([verdict.regret for verdict, _ in verdicts])
    true = np.mean([bank.means[list(each.tried)].max() - bank.means[each.declaration] for each in race])
    print(f"intervals of the race: +- {100 * half:.2f} points, cover the true mean in {covered:.1%} of {len(verdicts)}")
    print(f"expected regret that the race states: {100 * told:.3f} points; of its complete trials: {100 * true:.3f}")
    _epochs_until(bank, sampler, min(replays, 500), trials)
    _null_edits(bank)
    print(f"{time.process_time() - began:.0f} s of a core")


def _epochs_until(bank: Bank, sampler: str, replays: int, trials: int) -> None:
    """Epochs until the best value, on average over replays, is within a standard error of that of the full study: of
    TRIALS trials that are trained to the end."""
    budget = float(trials * bank.epochs)
    every = range(bank.epochs, int(budget) + 1)

    def courses(rule: Callable[[Replay], Found]) -> np.ndarray:
        rows = []
        for seed in range(replays):
            study = replay(bank, sampler, seed, budget, trials)
            rule(study)
            spent, best = map(np.array, zip(*study.best, strict=True))
            rows.append([best[spent <= epochs][-1] for epochs in every])
        return np.array(rows)

    full = courses(whole)[:, -1]
    images = (full.mean() * (1 - full.mean()) / IMAGES) ** 0.5
    errors = {"over 40 studies": full.std(ddof=1) / 40**0.5, "over the images of val": images}
    print(f"\nfull study of {trials} trials: best value {full.mean():.2%} after {budget:,.0f} epochs")
    found = {name: courses(rule).mean(axis=0) for name, rule in (("median pruner", single), ("thaw", thawed))}
    for error, size in errors.items():
        goal, needed = full.mean() - size, {}
        for name, course in found.items():
            reached = np.flatnonzero(course >= goal)
            needed[name] = every[reached[0]] if len(reached) else np.nan
        text = ", ".join(f"{name} {epochs:,.0f} epochs" for name, epochs in needed.items())
        ratio = needed["thaw"] / needed["median pruner"]
        print(f"within a standard error {error} ({100 * size:.2f} points): {text} ({ratio:.2f}x)")


def _null_edits(bank: Bank, loops: int = 200, edits: int = 100, budget: int = 20) -> None:
    """How many of 100 edits that change nothing a program keeps: each run is one of the same declaration, any seed."""
    print(
        f"\nof {edits} edits that change nothing, in {loops} loops: kept on average; more than 5 in; the first one in"
    )
    accept = programs.accepted(Rule(None, budget, boundary(1, budget)), 1 / IMAGES)
    for name, accepts in {"labbook accept": accept, "keep if better": programs.better}.items():
        found = [
            programs.kept(_same(bank, number, edits, budget), range(1, edits + 1), accepts) for number in range(loops)
        ]
        counts = np.array([len(each) for each in found])
        first = np.mean([each[:1] == [1] for each in found])
        print(f"{name:26} {counts.mean():7.2f} {(counts > 5).mean():10.1%} {first:10.1%}")


def _same(bank: Bank, number: int, edits: int, seeds: int) -> programs.Score:
    """Scores of runs of one declaration, drawn from its seeds with replacement."""
    rng = np.random.default_rng(number)
    scores = bank.scores[rng.integers(len(bank.scores))]
    drawn = scores[rng.integers(len(scores), size=(edits + 1, seeds))]
    return lambda edit, seed: float(drawn[edit, seed])


if __name__ == "__main__":
    main()
