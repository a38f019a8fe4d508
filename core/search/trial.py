"""One trial: a declaration that is trained as a separate run and may be pruned at the end of an epoch; with folds, as
a run for each fold, between which it may be pruned."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from core.catalogue import import_experiment
from core.common.errors import UserError
from core.experiment import Experiment
from core.export.benchmark import of_one_image
from core.launch import Launch
from core.loading.folds import Fold, Folds
from core.record.run import PAUSED, PRUNED, WEIGHTS, parent_of
from core.runs.recorder import RunInfo, RunSpec
from core.runs.resume import reopened
from core.runs.train import opened
from core.runs.trained import Run
from core.runs.trainer import Trainer
from core.search.objectives import LATENCY, Goals
from core.search.options import COSTS
from core.tracking.api import NoMirror
from core.training.checkpoint import CHECKPOINTS, keep_last
from core.training.runtime import open_runtime


@dataclass(frozen=True)
class Task:
    """The task of a worker. declaration, launch: their records.  run: an earlier run of this trial, to be resumed; with
    folds, the last one.  whole: train to the end and test, as `train` does, without pruning."""

    number: int
    declaration: dict[str, Any]
    launch: dict[str, Any]
    info: RunInfo
    goals: Goals
    run: str | None = None
    whole: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. scores: value of each goal, if it is complete.  error: message, if it failed."""

    number: int
    scores: list[float] | None = None
    pruned: bool = False
    error: str | None = None


OnRun = Callable[[Run], None]
PAUSE = "pause"  # the trial is stopped by a signal and may be resumed later
# (epochs, or folds, done; current value of the first goal) -> False to prune the trial; True to continue; PAUSE
Continues = Callable[[int, float], bool | str]
KeepsWeights = Callable[[list[float]], bool]  # scores -> whether to keep the weights


def run_trial(task: Task, run: Run | None, on_run: OnRun, continues: Continues, keeps_weights: KeepsWeights) -> Outcome:
    """Train or resume a trial. Raises what training raises.

    on_run: called with the run once it exists.  continues: called after each epoch.  keeps_weights: called at the end.
    """
    import_experiment(task.info.experiment)
    if task.goals.folds:
        return _over_folds(task, _by_fold(run) if run else {}, on_run, continues)
    if run and run.status in ("FINISHED", "FAILED"):  # the parent died before it received the result
        return _outcome(task, run)
    launch = Launch.read(task.launch)
    spec = RunSpec(Experiment.read(task.declaration), launch, task.info)
    with open_runtime(launch, NoMirror()) as runtime:
        with reopened(run, runtime) if run else opened(spec, runtime) as trainer:
            run = trainer.run
            on_run(run)
            if trainer.journal and run.tags.get(PAUSED) == "true":
                trainer.journal.write("tags", values={PAUSED: "false"})
            if task.whole:
                trainer.to_the_end()
            elif good := not _iterate(trainer, task, continues) and keeps_weights(_scores(trainer, task)):
                keep_last(run.folder / CHECKPOINTS)
            elif trainer.journal:
                trainer.journal.delete(WEIGHTS)
        if not task.whole and not good:  # only after it has ended: until then it may have to be resumed
            shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
    return _outcome(task, run)


def _over_folds(task: Task, earlier: Mapping[int, Run], on_run: OnRun, continues: Continues) -> Outcome:
    """Train a trial on each fold; its scores are the means. No weights are kept. earlier: number of a fold -> its run,
    which may have to be resumed."""
    assert task.goals.folds
    runs: list[Run] = []
    for fold in Folds(task.goals.folds):
        run = earlier.get(fold.number)
        if run is None or run.status not in ("FINISHED", "FAILED"):
            run = _on_fold(task, fold, run, on_run)
        if run.status == "FAILED":
            return _outcome(task, run)
        runs.append(run)
        scores = task.goals.mean(runs)
        if not continues(len(runs), scores[0]):
            return Outcome(task.number, pruned=True)
    return Outcome(task.number, scores)


def _on_fold(task: Task, fold: Fold, run: Run | None, on_run: OnRun) -> Run:
    """Train or resume the run of one fold."""
    launch, name = Launch.read(task.launch), f"fold {fold.number}"
    info = task.info.below(task.info.parent, f"{task.info.title} {name}", name, task.info.trial)
    spec = RunSpec(Experiment.read(task.declaration).but({"fold": fold}), launch, info)
    with open_runtime(launch, NoMirror()) as runtime:
        with reopened(run, runtime) if run else opened(spec, runtime) as trainer:
            on_run(trainer.run)
            with closing(trainer.events()) as events:
                for event in events:
                    if event.validation:
                        _now(event.metrics, task.goals.names[0])
            _keep_latency(trainer, task)
            if trainer.journal:
                trainer.journal.delete(WEIGHTS)
        shutil.rmtree(trainer.run.folder / CHECKPOINTS, ignore_errors=True)
    return trainer.run


def _by_fold(run: Run) -> dict[int, Run]:
    """Number of a fold -> its latest run, of the trial that a run belongs to."""
    study = parent_of(run)
    trial = run.record["trial"]
    every = [each for each in study.children() if each.record.get("trial") == trial] if study else [run]
    return {each.record["declaration"]["fold"]["number"]: each for each in reversed(every)}


def runs_by_trial(parent: Run) -> dict[int, Run]:
    """Trial number -> run, for the recorded children of a study's run."""
    found: dict[int, Run] = {}
    for run in parent.children():  # latest first
        if run.record.get("trial") is not None:
            found.setdefault(run.record["trial"], run)
    return found


def _iterate(trainer: Trainer, task: Task, continues: Continues) -> bool:
    """Train; returns whether the trial was pruned."""
    assert trainer.journal is not None
    name = task.goals.names[0]
    with closing(trainer.events()) as events:
        for event in events:
            if not event.validation:
                continue
            answer = continues(event.epoch + 1, _now(event.metrics, name))
            if answer == PAUSE:
                trainer.journal.write("tags", values={PAUSED: "true"})
            elif not answer:
                trainer.journal.write("tags", values={PRUNED: "true"})
                return True
    return False


def _scores(trainer: Trainer, task: Task) -> list[float]:
    """The scores of a trained trial."""
    _keep_latency(trainer, task)
    return task.goals.score(trainer.run)


def _keep_latency(trainer: Trainer, task: Task) -> None:
    """Measure the latency, if it is a goal, while the weights of the run exist, and record it."""
    history = trainer.run.history
    if trainer.journal and LATENCY in task.goals.names and LATENCY not in history:
        trainer.journal.metrics(len(history["train/loss"]), {LATENCY: of_one_image(trainer.run)})


def _now(metrics: dict[str, float], name: str) -> float:
    if name not in metrics and name not in COSTS:
        known = [other for other in metrics if other.startswith("val/")]
        raise UserError(
            [f"--goal {name}: this metric is not available for these data; choose one of {', '.join(known)}"]
        )
    return metrics.get(name, math.nan)


def _outcome(task: Task, run: Run) -> Outcome:
    tags = run.tags
    if run.status == "FAILED":
        return Outcome(task.number, error=tags.get("error", "failed"))
    if PRUNED in tags:
        return Outcome(task.number, pruned=True)
    return Outcome(task.number, task.goals.score(run))
