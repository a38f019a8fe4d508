"""What parallel workers gain, and what starting a trial costs.

    python -m tests.benchmarks.search [ROUNDS]

Studies of the digits with random proposals and no pruning, one thread a worker, MLflow off. The time of a study is
that of its trials alone, from the first one's start to the last one's end, so that imports of workers do not count.
To reach: two workers at most 0.6x the time of one; a trial starts in at most 0.2 s.
"""

import statistics
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest

from core.launch import Launch
from core.record.journal import read
from core.search import Float
from core.search.options import Search
from core.search.search import SearchResult, search
from core.search.trial import runs_by_trial
from experiments.digits_cnn import EXPERIMENT
from tests.benchmarks.common import in_turn, show

SPACE = {"optimizer.lr": Float(0.05, 0.2, log=True)}
TRIALS, WARM = 14, 2  # the first ones of a study wait for imports
QUIET = Launch(mlflow=False, threads=1)


def study(workers: int) -> tuple[SearchResult, Path]:
    """A study in a home of its own."""
    home = Path(tempfile.mkdtemp(prefix="labbook-bench-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        options = Search(trials=TRIALS, workers=workers, sampler="random", pruner="none", goal=("val/accuracy",))
        return search(EXPERIMENT.but({"epochs": 8, "stopping": None}), SPACE, options, QUIET, "digits_cnn"), home


def seconds(workers: int) -> float:
    """Of the trials after the first ones."""
    found, _ = study(workers)
    trials = found.study.get_trials(deepcopy=False)[WARM:]
    taken: timedelta = max(t.datetime_complete for t in trials) - min(t.datetime_start for t in trials)
    return taken.total_seconds()


def starting() -> float:
    """Seconds from asking for a trial to the end of its first step, the median of a study's later trials."""
    found, home = study(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        runs = runs_by_trial(found.parent)
        trials = found.study.get_trials(deepcopy=False)[WARM:]
        return statistics.median(_first_step(runs[t.number].folder) - t.datetime_start.timestamp() for t in trials)


def _first_step(folder: Path) -> float:
    return next(event["time"] for _, event in read(folder) if event["event"] == "metrics") / 1000


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    figures = in_turn({"one worker": lambda: seconds(1), "two workers": lambda: seconds(2)}, rounds)
    show(f"{TRIALS - WARM} trials", figures, "one worker", "s")
    print(f"\nfrom asking for a trial to its first step: {starting():.3f} s (to reach: 0.2 s)")


if __name__ == "__main__":
    main()
