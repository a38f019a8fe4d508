"""Confirm the best trials: they are retrained with new seeds and ranked by the mean.

The best of many scores is biased upward by selection. The optimism of the search is the difference between the score
in the search and the mean over new seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.trial import FrozenTrial

from core.common.signals import Stop
from core.common.statistics import mean_and_interval
from core.experiment import Experiment
from core.runs.trained import Run, declares
from core.search.objectives import amount
from core.search.pool import Worker
from core.search.study import DEATHS, Study
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


def confirm(at_work: Study, best: Sequence[FrozenTrial], seeds: int, stop: Stop) -> list[Confirmed]:
    """Retrain trials with `seeds` new seeds each. Returns them with the best mean first; empty after a signal. Runs of
    an earlier call are reused."""
    jobs = [
        _Job(trial, at_work.declaration(trial).but({"seed": at_work.experiment.seed + seed}))
        for trial in best
        for seed in range(1, seeds + 1)
    ]
    begun = [run for run in at_work.parent.children() if run.record.get("trial") is None]
    for job in jobs:
        job.run = next((run for run in begun if declares(run.record, job.experiment)), None)
    at_work.shown.say(f"retraining the best {len(best)} trials with {seeds} new seeds each")
    _train(at_work, jobs, stop)
    if stop.number:
        return []
    found = [_confirmed(at_work, trial, [job for job in jobs if job.trial is trial]) for trial in best]
    raised = at_work.goals.larger_is_better(at_work.goals.names[0])
    return sorted((c for c in found if c.values), key=lambda c: -c.mean if raised else c.mean)


def words(at_work: Study, found: Sequence[Confirmed]) -> list[str]:
    """The messages about the result. Only the recommended trial is reported on the test split."""
    lines, goal = [], at_work.goals.names[0]
    for confirmed in found:
        mean, _, half = mean_and_interval(list(confirmed.values))
        optimism = (confirmed.searched - mean) * (1 if at_work.goals.larger_is_better(goal) else -1)
        spread = f" +- {amount(goal, half)}" if len(confirmed.values) > 1 else ""
        lines.append(
            f"trial {confirmed.trial}: {amount(goal, mean)}{spread} with {len(confirmed.values)} new seeds, "
            f"{amount(goal, confirmed.searched)} in the search; optimism {amount(goal, optimism)}"
        )
        lines += [f"  {error}" for error in confirmed.failed]
    if found:
        mean, _, half = mean_and_interval(list(found[0].test))
        spread = f" +- {half:.2%}" if len(found[0].test) > 1 else ""
        lines.append(
            f"recommended: trial {found[0].trial}, test accuracy {mean:.2%}{spread} (n = {len(found[0].test)})"
        )
    return lines


def _train(at_work: Study, jobs: list[_Job], stop: Stop) -> None:
    waiting = list(range(len(jobs)))

    def next_task(place: int) -> Task | None:
        return _task(at_work, place, number := waiting.pop(0), jobs[number]) if waiting else None

    def hear(worker: Worker, message: tuple[Any, ...]) -> None:
        kind, *rest = message
        if worker.task is None:
            return
        number = worker.task.number
        job = jobs[number]
        if kind == "run":
            job.run = at_work.follow(rest[1])
            return
        worker.task = None
        if kind == "ended":
            job.error = rest[0].error or ""
            job.score = rest[0].scores[0] if rest[0].scores else None
            told = job.error or amount(at_work.goals.names[0], job.score or 0.0)
            at_work.shown.say(f"trial {job.trial.number}, seed {job.experiment.seed}: {told}")
            return
        job.deaths += kind != "unbegun"
        job.error = f"seed {job.experiment.seed}: its worker died {job.deaths} times"
        if job.deaths < DEATHS:
            waiting.append(number)

    at_work.pool.iterate(stop, next_task, hear, lambda: bool(at_work.pool.busy()))


def _task(at_work: Study, place: int, number: int, job: _Job) -> Task:
    heading = replace(at_work.heading, title=f"confirm trial {job.trial.number}", parent=at_work.parent.id, trial=None)
    launch = at_work.placed(place)
    run = job.run.id if job.run else None
    return Task(number, job.experiment.record(), launch.record(), heading, at_work.goals, run, whole=True)


def _confirmed(at_work: Study, trial: FrozenTrial, jobs: list[_Job]) -> Confirmed:
    done = [job for job in jobs if job.score is not None]
    test = tuple(job.run.metrics["test/accuracy"] for job in done if job.run)
    failed = tuple(job.error for job in jobs if job.score is None)
    return Confirmed(
        trial.number, trial.values[0], tuple(job.score for job in done if job.score is not None), test, failed
    )
