"""A study: the parent process asks Optuna for trials, assigns them to workers, and tells Optuna their results."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from core.common.errors import Failing
from core.common.signals import Stop
from core.experiment import Experiment
from core.launch import Launch
from core.randomness import key
from core.record.journal import Journal, read
from core.record.lock import is_free
from core.runs.recorder import RunInfo
from core.runs.trained import Run
from core.search import repeats, samplers, thaw
from core.search.objectives import Goals
from core.search.options import Search
from core.search.pool import Pool, Worker
from core.search.repeats import DECLARED, ERROR, counts, firsts, is_repeat
from core.search.space import Space, changes, changes_of, declared, dimensions, label
from core.search.storage import HEARTBEAT, OWNER, added, attached, beat, has_heartbeats, is_orphan, owner, present
from core.search.thaw import PAUSED
from core.search.trial import PAUSE, Outcome, Task, runs_by_trial
from core.tracking.api import Follows

MAX_DEATHS = 3  # worker deaths in one epoch after which a trial fails
MAX_FAILURES = 5  # consecutive failed trials after which the search stops


@dataclass
class StudyRunner:
    """Runs an Optuna study in one parent process. parent: the run whose children are the trials."""

    storage: optuna.storages.BaseStorage
    study: optuna.Study
    space: Space
    experiment: Experiment
    launch: Launch
    options: Search
    goals: Goals
    info: RunInfo
    parent: Run
    mirror: Follows
    pool: Pool
    display: Any
    began: float = field(default_factory=time.monotonic)
    orphans: list[FrozenTrial] = field(default_factory=list)
    running: dict[int, optuna.Trial] = field(default_factory=dict)
    runs: dict[int, Run] = field(default_factory=dict)
    deaths: dict[int, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    last_beat: float = 0.0
    waiting: bool = False
    seen: set[int] = field(default_factory=set)
    awaited: set[str] = field(default_factory=set)
    pausing: set[int] = field(default_factory=set)

    def iterate(self, stop: Stop) -> None:
        """Run trials until all have ended, the timeout expires, or a signal arrives. Raises Failing."""
        self.runs = runs_by_trial(self.parent)
        shared = self.options.storage is not None
        left = [t for t in self._in_state(TrialState.RUNNING) if is_orphan(t, shared)]
        for trial in left:
            if run := self.runs.get(trial.number):  # what a mirror that died with its search has not sent
                self.mirror.follow(run.folder)
        self.orphans = [trial for trial in left if not self._is_paused(trial)]
        self._give_up_lost()
        if not self.orphans and self._is_over() and not self._awaits_others():
            return
        self.pool.iterate(stop, self._next, self._handle, self._proceed)

    @property
    def steps(self) -> int:
        """Number of values that a trial reports: one after each epoch, or after each fold."""
        return self.goals.folds or self.experiment.epochs

    @property
    def step(self) -> str:
        return "fold" if self.goals.folds else "epoch"

    def _proceed(self) -> bool:
        self.display.show(self)
        self._heartbeat()
        return bool(self.pool.busy() or self.orphans) or self._awaits_others() or not self._is_over()

    def finished(self) -> list[FrozenTrial]:
        """Returns the trials that count: complete, pruned, or failed with an error of their own; without repeats."""
        return [t for t in firsts(self.study.get_trials(deepcopy=False)) if counts(t)]

    def declaration(self, trial: FrozenTrial) -> Experiment:
        """Returns the declaration of a trial, which may have been trained on another machine."""
        if trial.user_attrs.get(DECLARED):
            return self.experiment
        return self.experiment.but(changes_of(self.space, trial.params))

    def now(self, trial: optuna.Trial) -> FrozenTrial:
        """Returns the present state of a trial in the storage, which other machines may have changed."""
        return present(self.storage, self.study, trial.number)

    def follow(self, folder: str) -> Run:
        """Returns the run in this folder, which is mirrored from now on."""
        run = Run(Path(folder))
        self.mirror.follow(run.folder)
        return run

    def _next(self, place: int) -> list[Task]:
        """The tasks of a worker: as many as it trains at once."""
        tasks: list[Task] = []
        while len(tasks) < self.options.at_once and (task := self._one(place)):
            tasks.append(task)
            if self.deaths.get(task.number):  # it may have been the cause of death: it is trained alone
                break
        return tasks

    def _one(self, place: int) -> Task | None:
        free = next((trial for trial in self.orphans if self.is_free(self.runs.get(trial.number))), None)
        if free:
            self.orphans.remove(free)
            trial = attached(self.storage, self.study, free.number)
        elif not self.is_late() and (number := self._due_after_pause()) is not None:
            trial = attached(self.storage, self.study, number)
            trial.set_user_attr(PAUSED, 0)
        elif self._is_over():
            return None
        else:
            trial = self._ask()
            if self._is_surplus(trial):
                self.study.tell(trial, state=TrialState.FAIL)
                return None
        self.running[trial.number] = trial
        beat(self.storage, self.study, [trial.number])
        return self._task(trial, place)

    def _ask(self) -> optuna.Trial:
        """A new trial; in a race, also one that repeats another with a further seed."""
        self.study.sampler = samplers.sampler(self.options.sampler, self._seed())
        if self._is_thawing and not self._in_state(TrialState.WAITING):
            return added(self.storage, self.study, thaw.proposal(self.study, self.space))
        if self.options.race is None:
            return self.study.ask()
        if (number := self._due()) is not None:
            return added(self.storage, self.study, repeats.repeat(self.study, number))
        if self._in_state(TrialState.WAITING):
            return self.study.ask()
        return added(self.storage, self.study, repeats.proposal(self.study, self.space))

    def _due(self) -> int | None:
        """The number of the trial that gets a further seed next, if any."""
        return repeats.due(self.study, self.options.race, self.have_begun()) if self.options.race else None

    @property
    def _is_thawing(self) -> bool:
        return self.options.pruner == "thaw"

    def _is_paused(self, trial: FrozenTrial) -> bool:
        """Whether a trial waits for its turn. Without the pruner that pauses trials, it is resumed like any other."""
        return self._is_thawing and thaw.is_paused(trial)

    def _due_after_pause(self, *pausing: int) -> int | None:
        """The number of the paused trial that is resumed next, if any. pausing: as if these were paused, too."""
        if not self._is_thawing:
            return None
        return thaw.due_in(self.study, self.steps, self.goals.epoch == "best", self.have_begun(), pausing)

    def have_begun(self) -> bool:
        """Whether all trials have."""
        return self.is_exhausted() or len(self._begun()) >= self.options.trials

    def _begun(self) -> list[FrozenTrial]:
        """The trials that count, and those that run."""
        return [t for t in firsts(self.study.get_trials(deepcopy=False)) if t.state == TrialState.RUNNING or counts(t)]

    def is_free(self, run: Run | None) -> bool:
        """Whether no process trains this run. The worker of a dead search does until the end of its step."""
        if run is None or is_free(run.folder):
            return True
        if run.id not in self.awaited:
            self.awaited.add(run.id)
            pids = [event.get("pid") for _, event in read(run.folder, containing=b'"run"') if event["event"] == "run"]
            self.display.say(
                f"waiting for process {pids[-1] if pids else 'unknown'}, a worker of an earlier search, "
                f"which finishes a step of {run.id}"
            )
        return False

    def is_late(self) -> bool:
        """Whether the timeout has expired."""
        return self.options.seconds is not None and time.monotonic() - self.began > self.options.seconds

    def _is_over(self) -> bool:
        enough = self.have_begun()
        waiting = any(map(is_repeat, self._in_state(TrialState.WAITING)))  # that of a machine that died
        return self.is_late() or (enough and not waiting and self._due() is None and self._due_after_pause() is None)

    def is_exhausted(self) -> bool:
        """Whether a grid has no points left."""
        return self.options.sampler == "grid" and not self._in_state(TrialState.WAITING)

    def is_active(self) -> bool:
        """Whether trials are running or have yet to start."""
        return bool(self.running) or not self._is_over()

    def _task(self, trial: optuna.Trial, place: int) -> Task:
        if trial.user_attrs.get(DECLARED):
            chosen = declared(self.space, self.experiment)
            for name, dimension in ((n, d) for n, d in dimensions(self.space).items() if n in chosen):
                samplers.suggest(trial, name, dimension)
            experiment = self.experiment
        else:
            chosen = changes(self.space, lambda name, dimension: samplers.suggest(trial, name, dimension))
            experiment = self.experiment.but(chosen)
            chosen = trial.params
        trial.set_user_attr(OWNER, owner())
        silent = optuna.storages.RetryHeartbeatStaleTrialCallback.retried_trial_number(self.now(trial))
        if silent is not None:
            self.display.say(f"trial {trial.number} retries trial {silent}, whose machine stopped responding")
        name, further = repeats.name_of(trial), trial.user_attrs.get(repeats.SEED)
        if further:
            experiment = experiment.but({"seed": experiment.seed + further})
        title = " ".join([name, *(f"{name}={label(value)}" for name, value in chosen.items())])
        info = self.info.below(self.parent.id, title, name, trial.number)
        run = self.runs.get(trial.number)
        launch = self.placed(place)
        return Task(trial.number, experiment.record(), launch.record(), info, self.goals, run.id if run else None)

    def placed(self, place: int) -> Launch:
        """Returns the launch options of the worker at this place, with its GPU; CPU threads are already divided."""
        import torch

        own = self.options.cluster == "ray"  # which shows each worker its GPU only
        if own or self.launch.device not in ("auto", "cuda") or not torch.cuda.is_available():
            return self.launch
        device = place // self.options.workers_per_gpu % torch.cuda.device_count()
        return self.launch.but({"device": f"cuda:{device}"})

    def _handle(self, worker: Worker, message: tuple[Any, ...]) -> None:
        kind, *rest = message
        if kind == "run":
            self.runs[rest[0]] = self.follow(rest[1])
        elif kind == "epoch":
            continues = self._continues(*rest)
            if self._is_to_pause(*rest[:2]):
                self.pausing.add(rest[0])
            if rest[0] in self.pausing or self._is_taken_over(rest[0]):
                worker.process.stop()
            worker.send(PAUSE if rest[0] in self.pausing else continues)
        elif kind == "score":
            worker.send(self._is_kept(*rest))
        elif kind == "ended":
            worker.tasks.pop(rest[0].number)
            self._tell(rest[0])
        else:  # stopped by the machine, or died: another worker resumes the trials
            for number in [rest[0]] if kind == "stopped" else list(worker.tasks):
                worker.tasks.pop(number)
                self._stopped(number, kind, rest[-1])

    def _stopped(self, number: int, kind: str, how: str) -> None:
        if kind == "stopped" and number in self.pausing:
            self.pausing.remove(number)
            trial = self.running.pop(number)
            trial.set_user_attr(PAUSED, max(self.now(trial).intermediate_values))
            return
        self._handle_death(number, kind, how)

    def _continues(self, number: int, epochs: int, value: float) -> bool:
        """Whether the trial continues. The declaration itself is never pruned: it is the reference for the others."""
        trial = self.running[number]
        now = self.now(trial)
        if is_repeat(now):  # its curve is not held against those of other seeds
            self.deaths.pop(number, None)
            return True
        if len(self.goals.names) > 1 or now.state.is_finished():
            return True
        if epochs not in now.intermediate_values:  # a resumed trial has reported it before
            try:
                trial.report(value, epochs)
            except optuna.exceptions.UpdateFinishedTrialError:  # another machine has taken it over just now
                return True
            self.deaths.pop(number, None)
        return self._is_exempt(trial, epochs) or not trial.should_prune()

    def _is_exempt(self, trial: optuna.Trial, epochs: int) -> bool:
        return bool(trial.user_attrs.get(DECLARED)) or epochs >= self.steps  # no steps left to save

    def _is_to_pause(self, number: int, epochs: int) -> bool:
        """Whether a trial at a rung waits there, because another one is due or a new one should begin."""
        at_rung = self._is_thawing and epochs in thaw.rungs(self.steps)
        return at_rung and not self._is_exempt(self.running[number], epochs) and self._due_after_pause(number) != number

    def _is_kept(self, number: int, scores: list[float]) -> bool:
        if is_repeat(self.running[number]):
            return False
        if len(self.goals.names) > 1:
            return self.options.keep > 0
        maximize = self.goals.larger_is_better(self.goals.names[0])
        others = [t.value for t in firsts(self._in_state(TrialState.COMPLETE)) if t.value is not None]
        better = sum((other > scores[0]) if maximize else (other < scores[0]) for other in others)
        return better < self.options.keep

    def _tell(self, outcome: Outcome) -> None:
        self.pausing.discard(outcome.number)  # it ended at the rung, by early stopping
        if self._is_taken_over(outcome.number):
            self._discard(outcome.number)
            return
        trial = self.running[outcome.number]
        try:
            if outcome.error is not None:
                trial.set_user_attr(ERROR, outcome.error[:1000])
                frozen = self.study.tell(trial, state=TrialState.FAIL)
            else:
                frozen = self.study.tell(trial, outcome.scores, state=TrialState.PRUNED if outcome.pruned else None)
        except optuna.exceptions.UpdateFinishedTrialError:  # another machine has taken it over just now
            self._discard(outcome.number)
            return
        del self.running[outcome.number]
        if outcome.error is None:
            self.failures.clear()
        else:
            self.failures.append(outcome.error)
        self.display.ended(self, frozen)
        if len(self.failures) == MAX_FAILURES:
            raise Failing(f"{MAX_FAILURES} consecutive trials failed, the last one with: {outcome.error}")

    def _handle_death(self, number: int, kind: str, how: str) -> None:
        if self._is_taken_over(number):
            self._discard(number)
            return
        self.deaths[number] = self.deaths.get(number, 0) + (kind != "not started")
        if self.deaths[number] == MAX_DEATHS:
            error = f"its worker died {MAX_DEATHS} times ({how})"
            self._close(number, "FAILED", error)
            self._tell(Outcome(number, error=error))
            return
        self.display.say(f"trial {number}: its worker exited ({how}); another worker resumes the trial")
        self.orphans.append(self.now(self.running.pop(number)))

    def _heartbeat(self) -> None:
        if time.monotonic() - self.last_beat > HEARTBEAT / 2:
            self.last_beat = time.monotonic()
            beat(self.storage, self.study, [*self.running, *(trial.number for trial in self._without_owner())])

    def _without_owner(self) -> list[FrozenTrial]:
        """Trials whose machine died before it recorded itself as the owner: a heartbeat starts their grace period."""
        running = [t for t in self._in_state(TrialState.RUNNING) if OWNER not in t.user_attrs]
        fresh = [t for t in running if t.number not in self.seen]
        self.seen |= {t.number for t in fresh}
        return fresh

    def _awaits_others(self) -> bool:
        """Whether other machines run trials, which have to be retried here if such a machine dies."""
        running = [t for t in self._in_state(TrialState.RUNNING) if t.number not in self.running]
        if not running or not has_heartbeats(self.storage) or self.is_late():
            return False
        if not self.waiting:
            self.waiting = True
            self.display.say(f"waiting for trials of other machines: {', '.join(str(t.number) for t in running)}")
        return True

    def _is_surplus(self, trial: optuna.Trial) -> bool:
        """Whether this trial exceeds the number of trials: two machines asked at the same time, and this came later."""
        return not is_repeat(trial) and sum(t.number < trial.number for t in self._begun()) >= self.options.trials

    def _is_taken_over(self, number: int) -> bool:
        """Whether another machine retries the trial because this one sent no heartbeat (sleep, network failure)."""
        return self.now(self.running[number]).state.is_finished()

    def _discard(self, number: int) -> None:
        del self.running[number]
        self.display.say(f"trial {number} was taken over by another machine; the result of this machine is discarded")

    def _give_up_lost(self) -> None:
        """Set runs of a dead parent process to KILLED if another machine has completed their trials since."""
        ended = {trial.number for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()}
        for number in ended & set(self.runs):
            self._close(number, "KILLED", "the machine stopped responding; another one completed this trial")

    def _close(self, number: int, status: str, error: str) -> None:
        """End the run of a trial in place of its worker, unless the run has already ended."""
        run = self.runs.get(number)
        if run and run.status == "RUNNING" and is_free(run.folder):
            journal = Journal(run.folder)
            journal.write("tags", values={"error": error})
            journal.close(status)
            self.follow(str(run.folder))

    def _seed(self) -> int | None:
        """The sampler seed: different for each trial, also after a restart; None (random) with several machines."""
        if self.options.storage is not None:
            return None
        return int(key(self.experiment.seed, "search", len(self.study.get_trials(deepcopy=False)))[0]) % 2**32

    def _in_state(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)
