"""Confirm the best trials: they are retrained with new seeds and ranked by the mean.

The best of many scores is biased upward by selection. The optimism of the search is the difference between the score
in the search and the mean over new seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from core.common.signals import Stop
from core.common.statistics import mean_and_interval
from core.experiment import Experiment
from core.runs.trained import Run, declares
from core.search.objectives import amount, number
from core.search.pool import Worker
from core.search.study import MAX_DEATHS, StudyRunner
from core.search.trial import Task


@dataclass(frozen=True)
class Confirmed:
    """A trial that was retrained with new seeds. searched: its score in the search.  values: the goal of each seed.
    test: test accuracies of the same runs.  failed: error messages of the seeds that failed."""

    trial: int
    searched: float
    values: tuple[float, ...]
    test: tuple[float, ...]
    failed: tuple[str, ...]

    @property
    def mean(self) -> float:
        return mean_and_interval(list(self.values))[0]


@dataclass
class _Job:
    trial: FrozenTrial
    experiment: Experiment
    run: Run | None = None
    deaths: int = 0
    score: float | None = None
    error: str = ""


def confirm(runner: StudyRunner, best: Sequence[FrozenTrial], seeds: int, stop: Stop) -> list[Confirmed]:
    """Retrain trials with `seeds` new seeds each. Runs of an earlier call are reused.

    Returns the trials, the best mean first; an empty list after a signal.
    """
    jobs = [
        _Job(trial, runner.declaration(trial).but({"seed": runner.experiment.seed + seed}))
        for trial in best
        for seed in range(1, seeds + 1)
    ]
    earlier = [run for run in runner.parent.children() if run.record.get("trial") is None]
    for job in jobs:
        job.run = next((run for run in earlier if declares(run.record, job.experiment)), None)
    runner.display.say(f"retraining the best {len(best)} trials with {seeds} new seeds each")
    _train(runner, jobs, stop)
    if stop.number:
        return []
    found = [_confirmed(runner, trial, [job for job in jobs if job.trial is trial]) for trial in best]
    maximize = runner.goals.larger_is_better(runner.goals.names[0])
    return sorted((c for c in found if c.values), key=lambda c: -c.mean if maximize else c.mean)


def messages(runner: StudyRunner, confirmed: Sequence[Confirmed]) -> list[str]:
    """Describe the retrained trials, one line each. Only the recommended one is reported on the test split."""
    lines, goal = [], runner.goals.names[0]
    fraction = number(goal, 0.0).endswith("%")
    for one in confirmed:
        mean, _, half = mean_and_interval(list(one.values))
        optimism = (one.searched - mean) * (1 if runner.goals.larger_is_better(goal) else -1)
        apart = f"{100 * optimism:z.2f} points" if fraction else number(goal, optimism)
        spread = f" +- {number(goal, half)}" if len(one.values) > 1 else ""
        seeds = "1 new seed" if len(one.values) == 1 else f"{len(one.values)} new seeds"
        lines.append(
            f"trial {one.trial}: {amount(goal, mean)}{spread} with {seeds}, "
            f"{number(goal, one.searched)} in the search; optimism of the search {apart}"
        )
        lines += [f"  {error}" for error in one.failed]
    if confirmed:
        first = confirmed[0]
        mean, _, half = mean_and_interval(list(first.test))
        spread = f" +- {half:.2%}" if len(first.test) > 1 else ""
        lines.append(f"recommended: trial {first.trial}, test accuracy {mean:.2%}{spread} (n = {len(first.test)})")
    return lines


def _train(runner: StudyRunner, jobs: list[_Job], stop: Stop) -> None:
    waiting = list(range(len(jobs)))

    def next_tasks(place: int) -> list[Task]:
        number = next((each for each in waiting if runner.is_free(jobs[each].run)), None)
        if number is None:
            return []
        waiting.remove(number)
        return [_task(runner, place, number, jobs[number])]

    def handle(worker: Worker, message: tuple[Any, ...]) -> None:
        kind, *rest = message
        if not worker.tasks:
            return
        (number,) = worker.tasks
        job = jobs[number]
        if kind == "run":
            job.run = runner.follow(rest[1])
            return
        worker.tasks.clear()
        if kind == "ended":
            job.error = rest[0].error or ""
            job.score = rest[0].scores[0] if rest[0].scores else None
            result = job.error or amount(runner.goals.names[0], job.score or 0.0)
            runner.display.say(f"trial {job.trial.number}, seed {job.experiment.seed}: {result}")
            return
        job.deaths += kind != "not started"
        job.error = f"seed {job.experiment.seed}: its worker died {job.deaths} times"
        if job.deaths < MAX_DEATHS:
            waiting.append(number)

    runner.pool.iterate(stop, next_tasks, handle, lambda: bool(runner.pool.busy() or waiting))


def _task(runner: StudyRunner, place: int, number: int, job: _Job) -> Task:
    title = f"confirm trial {job.trial.number}"
    info = runner.info.below(runner.parent.id, title, f"{title} seed {job.experiment.seed}")
    launch = runner.placed(place)
    run = job.run.id if job.run else None
    return Task(number, job.experiment.record(), launch.record(), info, runner.goals, run, whole=True)


def _confirmed(runner: StudyRunner, trial: FrozenTrial, jobs: list[_Job]) -> Confirmed:
    done = [job for job in jobs if job.score is not None]
    test = tuple(job.run.metrics["test/accuracy"] for job in done if job.run)
    failed = tuple(job.error for job in jobs if job.score is None)
    return Confirmed(
        trial.number, trial.values[0], tuple(job.score for job in done if job.score is not None), test, failed
    )
