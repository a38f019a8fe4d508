"""What pruning saves, and what TPE with pruning gains over random search.

    python -m tests.benchmarks.pruning [REPETITIONS] [TRIALS]

Studies of the digits over the SPACE of digits_cnn, 16 epochs a trial, trained on 359 images and judged by the accuracy
on 1,079 others, so that there is something to find. One worker, so that a figure comes out the same again. Cost is
counted in epochs, not in seconds. To reach: 40 % of the epochs saved at a best value within one standard error of the
unpruned study's; random search's best in half of its epochs.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import dataclass

import pytest
from optuna.trial import TrialState

from core.launch import Launch
from core.search.options import Search
from core.search.search import search
from experiments.digits_cnn import EXPERIMENT, SPACE

TASK = EXPERIMENT.but(
    {"data.val_fraction": 0.75, "epochs": 16, "stopping": None, "monitor": "val/accuracy", "batch_size": 32}
)
QUIET = Launch(mlflow=False, threads=1)
STUDIES = {"random": ("random", "none"), "tpe": ("tpe", "none"), "tpe, pruned": ("tpe", "median")}


@dataclass(frozen=True)
class Course:
    """A study as it went: after so many epochs in all, this was the best value, and so many were pruned."""

    epochs: tuple[int, ...]
    best: tuple[float, ...]
    pruned: tuple[int, ...]

    def first(self, trials: int) -> Course:
        """The course of so many trials."""
        return Course(self.epochs[:trials], self.best[:trials], self.pruned[:trials])

    def after(self, epochs: int) -> float:
        """The best value after so many epochs."""
        return next((b for e, b in zip(self.epochs[::-1], self.best[::-1], strict=True) if e <= epochs), 0.0)

    def reaches(self, value: float) -> int | None:
        """Epochs until it is as good as this."""
        return next((e for e, b in zip(self.epochs, self.best, strict=True) if b >= value), None)


def course(sampler: str, pruner: str, seed: int, trials: int) -> Course:
    """Of one study in a home of its own."""
    with tempfile.TemporaryDirectory(prefix="labbook-bench-") as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", home)
        options = Search(trials=trials, sampler=sampler, pruner=pruner)
        found = search(TASK.but({"seed": seed}), SPACE, options, QUIET, "digits_cnn")
        done = sorted(found.study.get_trials(deepcopy=False), key=lambda trial: trial.datetime_complete)
    spent, best, ended, epochs, values, pruned = 0, 0.0, 0, [], [], []
    for trial in done:
        spent += len(trial.intermediate_values)
        best = max(best, trial.value) if trial.state == TrialState.COMPLETE else best
        ended += trial.state == TrialState.PRUNED
        epochs.append(spent)
        values.append(best)
        pruned.append(ended)
    return Course(tuple(epochs), tuple(values), tuple(pruned))


def within(pruned: list[Course], unpruned: list[Course]) -> int | None:
    """Epochs after which the pruned studies' mean best is within one standard error of the unpruned ones'."""
    last = [one.best[-1] for one in unpruned]
    enough = statistics.mean(last) - statistics.stdev(last) / len(last) ** 0.5
    spent = sorted({epochs for one in pruned for epochs in one.epochs})
    return next((e for e in spent if statistics.mean(one.after(e) for one in pruned) >= enough), None)


def line(seed: int, name: str, one: Course, goal: float) -> str:
    return f"{seed:4}  {name:12} {one.best[-1]:8.2%} {one.epochs[-1]:7} {one.pruned[-1]:6}  {one.reaches(goal)}"


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    trials = int(sys.argv[2]) if len(sys.argv) > 2 else 60
    found: dict[str, list[Course]] = {name: [] for name in STUDIES}
    gone_on: list[Course] = []
    shares: list[float] = []
    print(f"{'seed':>4}  {'study':12} {'best':>8} {'epochs':>7} {'pruned':>6}  epochs to random's best")
    for seed in range(repetitions):
        for name, (sampler, pruner) in STUDIES.items():
            longer = course(sampler, pruner, seed, trials if pruner == "none" else 2 * trials)
            found[name].append(longer.first(trials))
            goal, whole = found["random"][seed].best[-1], found["random"][seed].epochs[-1]
            print(line(seed, name, found[name][-1], goal), flush=True)
        print(line(seed, "twice as many", longer, goal), flush=True)  # the last one is pruned: it has epochs to spare
        gone_on.append(longer)
        shares.append((longer.reaches(goal) or float("inf")) / whole)
    saved = [1 - p.epochs[-1] / u.epochs[-1] for p, u in zip(found["tpe, pruned"], found["tpe"], strict=True)]
    print(f"\nepochs saved by pruning: {statistics.mean(saved):.0%} ({', '.join(f'{s:.0%}' for s in saved)})")
    for name, courses in found.items():
        last = [one.best[-1] for one in courses]
        error = statistics.stdev(last) / len(last) ** 0.5 if len(last) > 1 else float("nan")
        print(f"best of {name}: {statistics.mean(last):.2%}, standard error {error:.2%}")
    if repetitions > 1:
        whole = statistics.mean(one.epochs[-1] for one in found["tpe"])
        print(f"within one standard error of tpe's: after {within(gone_on, found['tpe'])} of {whole:.0f} epochs")
    text = ", ".join(f"{share:.2f}" for share in shares)
    print(f"epochs of pruned TPE to random's best, of random's: {statistics.mean(shares):.2f} ({text})")


if __name__ == "__main__":
    main()
