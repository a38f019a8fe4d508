"""Trials: each is a declaration that is trained as a separate run and may be pruned at the end of an epoch; with folds,
as a run for each fold, between which it may be pruned. Several may be trained at once."""

from __future__ import annotations

import math
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from core.catalogue import import_experiment
from core.common.errors import Unfinished, UserError
from core.experiment import Experiment
from core.export.benchmark import of_one_image
from core.launch import Launch
from core.loading.folds import Fold, Folds
from core.record.journal import is_deleted
from core.record.run import PAUSED, PRUNED, WEIGHTS, parent_of
from core.runs.fleet import Opening, train_together
from core.runs.recorder import RunInfo, RunSpec
from core.runs.resume import reopened
from core.runs.train import opened
from core.runs.trained import Run, load
from core.runs.trainer import Trainer
from core.search.objectives import LATENCY, Goals
from core.search.options import COSTS
from core.tracking.api import NoMirror
from core.training.assemble import prepare
from core.training.checkpoint import CHECKPOINTS, keep_last
from core.training.fleet import refuse_together, structure
from core.training.runtime import Runtime, open_runtime

ENDED = ("FINISHED", "FAILED")


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


PAUSE = "pause"  # the trial is stopped by a signal and may be resumed later


class Parent(Protocol):
    """What a worker tells and asks the process that runs the study. number: of the trial.  left: numbers of the trials
    that have not ended."""

    left: set[int]

    def run(self, number: int, run: Run) -> None:
        """The trial is trained as this run."""

    def continues(self, number: int, done: int, value: float) -> bool | str:
        """Whether to continue after so many epochs, or folds, with this value of the first goal; False to prune the
        trial, PAUSE to let it wait."""

    def keeps_weights(self, number: int, scores: list[float]) -> bool:
        """Whether to keep the weights of a trial with these scores."""

    def ended(self, outcome: Outcome) -> None:
        """The trial has ended."""


def run_trials(tasks: Sequence[Task], parent: Parent) -> None:
    """Train or resume trials: at once those that share a structure, if they can be, and the others one after the other.

    Raises Interrupted and Unfinished, after which the trials that have not ended may be resumed. Other errors are those
    of trials.
    """
    import_experiment(tasks[0].info.experiment)
    for group in _groups(tasks):
        error = ""
        try:
            if len(group) > 1:
                _train_together(group, parent)
            else:
                run_trial(group[0], parent)
        except Unfinished:
            raise
        except UserError as mistakes:
            error = "; ".join(mistakes.lines)
        except Exception as failure:
            error = _text(failure)
        for number in sorted(parent.left.intersection(task.number for task in group)):
            parent.ended(Outcome(number, error=error))


def run_trial(task: Task, parent: Parent) -> None:
    """Train or resume a trial. Raises what training raises."""
    run = load(task.run) if task.run else None
    if task.goals.folds:
        parent.ended(_over_folds(task, _by_fold(run) if run else {}, parent))
        return
    if run and run.status in ENDED:  # the parent died before it received the result
        parent.ended(_outcome(task, run))
        return
    with open_runtime(Launch.read(task.launch), NoMirror()) as runtime, _opened(task, run, parent, runtime) as trainer:
        if task.whole:
            trainer.to_the_end()
        else:
            for _ in _course(task, trainer, parent):
                pass


def _over_folds(task: Task, earlier: Mapping[int, Run], parent: Parent) -> Outcome:
    """Train a trial on each fold; its scores are the means. No weights are kept. earlier: number of a fold -> its run,
    which may have to be resumed."""
    assert task.goals.folds
    runs: list[Run] = []
    for fold in Folds(task.goals.folds):
        run = earlier.get(fold.number)
        if run is None or run.status not in ENDED:
            run = _on_fold(task, fold, run, parent)
        if run.status == "FAILED":
            return _outcome(task, run)
        runs.append(run)
        scores = task.goals.mean(runs)
        if not parent.continues(task.number, len(runs), scores[0]):
            return Outcome(task.number, pruned=True)
    return Outcome(task.number, scores)


def _on_fold(task: Task, fold: Fold, run: Run | None, parent: Parent) -> Run:
    """Train or resume the run of one fold."""
    launch, name = Launch.read(task.launch), f"fold {fold.number}"
    info = task.info.below(task.info.parent, f"{task.info.title} {name}", name, task.info.trial)
    spec = RunSpec(Experiment.read(task.declaration).but({"fold": fold}), launch, info)
    with open_runtime(launch, NoMirror()) as runtime:
        with reopened(run, runtime) if run else opened(spec, runtime) as trainer:
            parent.run(task.number, trainer.run)
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


@contextmanager
def _opened(task: Task, run: Run | None, parent: Parent, runtime: Runtime, together: bool = False) -> Iterator[Trainer]:
    """Open or reopen the run of a trial, which ends with it, unless it raises. Without weights that are kept, its
    checkpoints are removed then."""
    launch = Launch.read(task.launch).but({"together": together})
    spec = RunSpec(Experiment.read(task.declaration), launch, task.info)
    with reopened(run, runtime) if run else opened(spec, runtime) as trainer:
        parent.run(task.number, trainer.run)
        yield trainer
    if is_deleted(trainer.run.folder, WEIGHTS):  # not earlier: until then the run may have to be resumed
        shutil.rmtree(trainer.run.folder / CHECKPOINTS, ignore_errors=True)
    parent.ended(_outcome(task, trainer.run))


def _course(task: Task, trainer: Trainer, parent: Parent) -> Generator[None]:
    """Train until the end or until the trial is pruned; then keep its weights if it is among the best. Yields after
    each event."""
    assert trainer.journal is not None
    name, pruned = task.goals.names[0], False
    if trainer.run.tags.get(PAUSED) == "true":
        trainer.journal.write("tags", values={PAUSED: "false"})
    with closing(trainer.events()) as events:
        for event in events:
            answer = not event.validation or parent.continues(task.number, event.epoch + 1, _now(event.metrics, name))
            if answer == PAUSE:
                trainer.journal.write("tags", values={PAUSED: "true"})
            elif not answer:
                trainer.journal.write("tags", values={PRUNED: "true"})
                pruned = True
                break
            yield
    if not pruned and parent.keeps_weights(task.number, _scores(trainer, task)):
        keep_last(trainer.run.folder / CHECKPOINTS)
    else:
        trainer.journal.delete(WEIGHTS)


def _groups(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    """Yield the tasks that are trained at once, and each of the others by itself."""
    found: dict[Any, list[Task]] = {}
    for task in tasks:
        if task.run and load(task.run).status in ENDED:
            yield [task]
        else:
            found.setdefault(structure(Experiment.read(task.declaration)), []).append(task)
    for group in found.values():
        if len(group) > 1 and _can_be_stacked(group):
            yield group
        else:
            yield from ([task] for task in group)


def _can_be_stacked(tasks: Sequence[Task]) -> bool:
    """Whether tasks can be trained at once: tried with those that differ in the loss, or else with two of them."""
    experiments = [Experiment.read(task.declaration) for task in tasks]
    losses = list({str(one.loss): one for one in experiments}.values())
    try:
        tried = losses if len(losses) > 1 else experiments[:2]
        refuse_together([prepare(one, Launch.read(tasks[0].launch)) for one in tried])
    except (UserError, RuntimeError):  # each by itself shows what is wrong
        return False
    return True


def _train_together(tasks: Sequence[Task], parent: Parent) -> None:
    """Train or resume trials at once. Raises what ends all of them."""
    by_number = {task.number: task for task in tasks}
    with open_runtime(Launch.read(tasks[0].launch), NoMirror()) as runtime:
        openings: dict[int, Opening] = {
            task.number: partial(_opened, task, load(task.run) if task.run else None, parent, together=True)
            for task in tasks
        }
        ended = train_together(openings, runtime, lambda n, trainer: _course(by_number[n], trainer, parent))
    for number, found in ended.items():
        if isinstance(found, Exception):
            parent.ended(Outcome(number, error=_text(found)))


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


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
