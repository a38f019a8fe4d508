"""A study: the parent asks for trials, hands them to workers, tells what came of them."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState

from core.experiment import Experiment
from core.failures import Failing
from core.history import Metric
from core.keys import key
from core.launch import Launch
from core.part import Mistakes
from core.record import Run
from core.search import proposing
from core.search.options import COSTS, Search
from core.search.pool import Pool, Worker
from core.search.space import Space, changes, declared, dimensions, label, text
from core.search.storage import HEARTBEAT
from core.search.trial import Goals, Outcome, Task, runs_by_trial
from core.signals import Stop
from core.spelling import did_you_mean
from core.tracking import Mirror
from core.writing import Heading

OWNER, ERROR, DECLARED = "owner", "error", "declaration"
DEATHS, ROW = 3, 5  # deaths of a trial's worker after which it fails; failures in a row after which a study stops


@dataclass
class Study:
    """One parent's part in a study. parent: the run under which trials stand."""

    study: optuna.Study
    space: Space
    experiment: Experiment
    launch: Launch
    options: Search
    goals: Goals
    heading: Heading
    parent: Run
    mirror: Mirror
    pool: Pool
    shown: Any
    began: float = field(default_factory=time.monotonic)
    orphans: list[FrozenTrial] = field(default_factory=list)
    running: dict[int, optuna.Trial] = field(default_factory=dict)
    runs: dict[int, Run] = field(default_factory=dict)
    deaths: dict[int, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    beat: float = 0.0

    def iterate(self, stop: Stop) -> None:
        """Until all trials are told, the time is over, or a signal came. Raises Failing."""
        self.runs = runs_by_trial(self.heading.experiment, self.parent.id)
        self.orphans = [t for t in self._in_state(TrialState.RUNNING) if self._is_orphan(t)]
        if not self.orphans and self._is_over():
            return
        while not stop.number:
            for worker in self.pool.idle():
                task = self._next(worker)
                if task is None:
                    break
                worker.task = task
                worker.send(task)
            if not self.pool.busy():
                return
            self.shown.show(self)
            for worker, message in self.pool.messages(0.5):
                self._hear(worker, message)
            self._heartbeat()

    def told(self) -> list[FrozenTrial]:
        """Trials that count: finished, pruned, or failed by themselves."""
        ended = self._in_state(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return [t for t in ended if t.state != TrialState.FAIL or ERROR in t.user_attrs]

    def declaration(self, trial: FrozenTrial) -> Experiment:
        """What a trial has trained, wherever it did."""
        if trial.user_attrs.get(DECLARED):
            return self.experiment
        return self.experiment.but(changes(self.space, lambda name, dimension: trial.params[name]))

    def follow(self, folder: str) -> Run:
        """The run in this folder, mirrored from now on."""
        run = Run(Path(folder))
        if self.launch.mlflow:
            self.mirror.follow(run.folder)
        return run

    def _next(self, worker: Worker) -> Task | None:
        if self.orphans:
            frozen = self.orphans.pop(0)
            trial = optuna.Trial(self.study, frozen._trial_id)
        elif self._is_over():
            return None
        else:
            self.study.sampler = proposing.sampler(self.options.sampler, self._seed())
            trial = self.study.ask()
        self.running[trial.number] = trial
        return self._task(trial, worker)

    def _is_over(self) -> bool:
        late = self.options.seconds is not None and time.monotonic() - self.began > self.options.seconds
        trials = self.study.get_trials(deepcopy=False)
        going = sum(t.state == TrialState.RUNNING for t in trials)
        waiting = any(t.state == TrialState.WAITING for t in trials)
        spent = self.options.sampler == "grid" and not waiting
        return late or spent or len(self.told()) + going >= self.options.trials

    def _task(self, trial: optuna.Trial, worker: Worker) -> Task:
        if trial.user_attrs.get(DECLARED):
            chosen = declared(self.space, self.experiment)
            for name, dimension in ((n, d) for n, d in dimensions(self.space).items() if n in chosen):
                proposing.suggest(trial, name, dimension)
            experiment = self.experiment
        else:
            chosen = changes(self.space, lambda name, dimension: proposing.suggest(trial, name, dimension))
            experiment = self.experiment.but(chosen)
            chosen = trial.params
        trial.set_user_attr(OWNER, owner())
        title = " ".join([f"trial {trial.number}", *(f"{name}={label(value)}" for name, value in chosen.items())])
        heading = replace(self.heading, title=title, parent=self.parent.id, trial=trial.number)
        run = self.runs.get(trial.number)
        launch = self.placed(worker)
        return Task(trial.number, experiment.record(), launch.record(), heading, self.goals, run.id if run else None)

    def placed(self, worker: Worker) -> Launch:
        """Each worker its GPU; the CPU's threads are divided already."""
        import torch

        if self.launch.device not in ("auto", "cuda") or not torch.cuda.is_available():
            return self.launch
        device = worker.place // self.options.workers_per_gpu % torch.cuda.device_count()
        return self.launch.but({"device": f"cuda:{device}"})

    def _hear(self, worker: Worker, message: tuple[Any, ...]) -> None:
        kind, *rest = message
        if kind == "run":
            self.runs[rest[0]] = self.follow(rest[1])
        elif kind == "epoch":
            worker.send(self._verdict(*rest))
        elif kind == "score":
            worker.send(self._is_kept(rest[1]))
        elif kind == "ended":
            worker.task = None
            self._tell(rest[0])
        elif worker.task is not None:  # stopped by the machine, or died: somebody else goes on with it
            task, worker.task = worker.task, None
            self._bury(task, f"exit {rest[0]}" if kind == "died" else rest[1])

    def _verdict(self, number: int, epochs: int, value: float) -> bool:
        """Whether the trial goes on. The declaration itself is never pruned: it is what others are measured by."""
        trial = self.running[number]
        if len(self.goals.names) > 1:
            return True
        frozen = self.study._storage.get_trial(trial._trial_id)
        if epochs not in frozen.intermediate_values:  # a resumed one has told of it before
            trial.report(value, epochs)
        return bool(trial.user_attrs.get(DECLARED)) or not trial.should_prune()

    def _is_kept(self, scores: list[float]) -> bool:
        if len(self.goals.names) > 1:
            return self.options.keep > 0
        raise_ = self.goals.larger_is_better(self.goals.names[0])
        others = [t.value for t in self._in_state(TrialState.COMPLETE) if t.value is not None]
        better = sum((other > scores[0]) if raise_ else (other < scores[0]) for other in others)
        return better < self.options.keep

    def _tell(self, outcome: Outcome) -> None:
        trial = self.running.pop(outcome.number)
        if outcome.error is not None:
            trial.set_user_attr(ERROR, outcome.error[:1000])
            frozen = self.study.tell(trial, state=TrialState.FAIL)
            self.failures.append(outcome.error)
        else:
            pruned = TrialState.PRUNED if outcome.pruned else None
            frozen = self.study.tell(trial, outcome.scores, state=pruned)
            self.failures.clear()
        self.shown.ended(self, frozen)
        if len(self.failures) == ROW:
            raise Failing(f"{ROW} trials in a row failed, the last one: {outcome.error}")

    def _bury(self, task: Task, how: str) -> None:
        number = task.number
        self.deaths[number] = self.deaths.get(number, 0) + 1
        if self.deaths[number] >= DEATHS:
            self._tell(Outcome(number, error=f"its worker died {DEATHS} times ({how})"))
            return
        self.shown.say(f"trial {number}: its worker ended ({how}); it goes on in another")
        trial = self.running.pop(number)
        self.orphans.append(self.study._storage.get_trial(trial._trial_id))

    def _heartbeat(self) -> None:
        """Signs of life for other machines, and a look at theirs; a journal file has none."""
        if self.options.storage is None or time.monotonic() - self.beat < HEARTBEAT / 2:
            return
        self.beat = time.monotonic()
        for trial in self.running.values():
            self.study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
        optuna.storages.fail_stale_trials(self.study)

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        """Whether whoever had it is dead: surely so where a file's lock is ours; else on this machine."""
        host, _, pid = str(trial.user_attrs.get(OWNER, "")).rpartition(":")
        return self.options.storage is None or (host == platform.node() and not psutil.pid_exists(int(pid)))

    def _seed(self) -> int | None:
        """Of the next proposal: another one for each, and after a restart; machines must not propose the same."""
        if self.options.storage is not None:
            return None
        return int(key(self.experiment.seed, "search", len(self.study.get_trials(deepcopy=False)))[0]) % 2**32

    def _in_state(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)


def owner() -> str:
    """This process, for other machines too."""
    return f"{platform.node()}:{os.getpid()}"


def identity(space: Space, experiment: Experiment, goals: Goals) -> dict[str, str]:
    """What makes two studies the same, in words: SPACE, the declaration but for what SPACE covers, the goals."""
    told = {f"SPACE {name}": words for name, words in text(space).items()}
    told |= {name: str(value) for name, value in experiment.flat().items()}
    return told | {"goal": f"{', '.join(goals.names)} ({goals.epoch} epoch)"}


def goals_of(options: Search, experiment: Experiment, space: Space) -> Goals:
    """Raises Mistakes for goals that nobody measures, or that cannot be compared."""
    names = options.goal or (experiment.select,)
    known = (*get_args(Metric), *COSTS)
    wrong = [f"--goal {name}: no such goal{did_you_mean(name, known) or '; there are ' + ', '.join(known)}"
             for name in names if name not in known]  # fmt: skip
    if len(set(names)) < len(names):
        wrong.append(f"--goal {','.join(names)}: a goal is named twice")
    if "val/loss" in names and any(name.partition(".")[0] == "loss" for name in space):
        wrong.append(
            "--goal val/loss: SPACE varies the loss, whose values do not compare; take val/accuracy or val/nll"
        )
    if wrong:
        raise Mistakes(wrong)
    return Goals(tuple(names), options.epoch)
