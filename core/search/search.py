"""`search`: run a study and record it."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import optuna
import torch

from core.cluster.ray_cluster import connected
from core.common import paths
from core.common.errors import Failing, Interrupted, UserError
from core.common.machine import threads_each, usable_cores
from core.common.signals import Stop
from core.common.text import size
from core.experiment import Experiment
from core.launch import Launch
from core.loading.folds import Fold
from core.record import provenance
from core.record.journal import Journal, log_text
from core.record.lock import is_free, locked
from core.record.run import BEST, VERSION, intact
from core.record.summary import write_summary
from core.runs.recorder import RunInfo, RunSpec, new_run, open_journal, reopen_run, write_record
from core.runs.trained import Run
from core.search import at_once, samplers, space
from core.search.confirm import Confirmed, confirm, messages
from core.search.objectives import Goals, goals_of
from core.search.options import COSTS, Search
from core.search.plots import log_plots
from core.search.pool import Pool
from core.search.progress import display, status_line
from core.search.race import Verdict
from core.search.repeats import DECLARED, best_of, message, verdict_of
from core.search.storage import TOKEN, Direction, needed, open_storage, open_study
from core.search.study import StudyRunner
from core.search.thaw import is_paused
from core.tracking.api import Follows
from core.training.assemble import prepare, refuse_unmeasured
from core.training.checkpoint import CHECKPOINTS
from core.training.runtime import open_runtime
from core.training.smoke import declared as made_small


@dataclass(frozen=True)
class SearchResult:
    """The result of a study. parent: its run.  best: finished trials, best first; with several goals, the Pareto front.
    confirmed: retrained trials, best mean first; the first is recommended.  verdict: of a race, the best trial with its
    interval and its expected regret.  lines: messages about them."""

    parent: Run
    study: optuna.Study
    goals: Goals
    best: tuple[optuna.trial.FrozenTrial, ...]
    confirmed: tuple[Confirmed, ...]
    verdict: Verdict | None
    lines: tuple[str, ...]


def search(
    experiment: Experiment,
    within: space.Space,
    options: Search | None = None,
    launch: Launch | None = None,
    info: RunInfo | str = "notebook",
    seeds: int = 3,
) -> SearchResult:
    """Search a space around a declaration, or continue the study of the same name.

    seeds: number of new seeds with which options.confirm trials are retrained. Raises UserError before anything is
    recorded, Interrupted after a signal (the same call continues the study), and Failing.
    """
    options = options or Search()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space.check(within, experiment)
    goals = goals_of(options, experiment, within)
    spec = RunSpec.of(experiment, _shared(launch or Launch(), options), info)
    shown = display()
    with (
        _workers(options, spec.launch, shown.say) as pool,
        open_runtime(spec.launch, None) as runtime,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage")  # given here by `beat`
        spec = replace(spec, experiment=made_small(experiment, spec.launch, runtime.ranks))
        first = spec.experiment.but({"fold": Fold(folds=goals.folds)}) if goals.folds else spec.experiment
        parts = prepare(first, spec.launch, runtime.ranks)
        refuse_unmeasured(parts, {f"--goal {name}": name for name in goals.names if name not in COSTS})
        if options.at_once > 1:
            at_once.refuse(options, parts)
            for note in at_once.notes(within, parts):
                shown.say(note)
        with (
            _opened(spec, within, options, goals) as (storage, study),
            _parent(study, spec, options, runtime.mirror) as (run, journal),
            needed(options.storage),
        ):
            given = spec.experiment, spec.launch, options, goals, spec.info
            runner = StudyRunner(storage, study, within, *given, run, runtime.mirror, pool, shown)
            confirmed = _run_trials(runner, journal, seeds, runtime.stop)
    raced = verdict_of(study)
    lines = [message(study, goals)] if raced else messages(runner, confirmed)
    return SearchResult(run, study, goals, best_of(study), tuple(confirmed), raced, tuple(lines))


@contextmanager
def _workers(options: Search, launch: Launch, say: Callable[[str], None]) -> Iterator[Pool]:
    """Context manager: the pool of workers, here or on a Ray cluster. Raises UserError if the cluster has no room."""
    if options.cluster == "local":
        if options.address:
            raise UserError([f"--address {options.address}: this option requires --cluster ray"])
        yield Pool(options.workers)
        return
    from core.search.ray_pool import RayPool, resources

    with connected(options.address):
        yield RayPool(options.workers, resources(options, launch), say)


def _run_trials(runner: StudyRunner, journal: Journal, seeds: int, stop: Stop) -> list[Confirmed]:
    """Run all trials, then confirm the best. The results so far are always saved."""
    confirmed: list[Confirmed] = []
    try:
        with runner.display, stop.at_step_end():
            _announce(runner)
            runner.iterate(stop)
            runner.display.say(status_line(runner))
            if runner.is_late() and not runner.have_begun():
                runner.display.say(f"the timeout has expired: {_same_command(runner.options)} continues the study")
            if note := _about_paused(runner):
                runner.display.say(note)
            if runner.is_exhausted() and len(runner.finished()) < runner.options.trials:
                runner.display.say(
                    "the grid has no points left; points are enqueued when a study is created with --sampler grid"
                )
            best = best_of(runner.study)
            if runner.options.confirm and best and not stop.number:
                confirmed = confirm(runner, best[: runner.options.confirm], seeds, stop)
    finally:
        runner.pool.close()
        _save_results(journal, runner, confirmed)
    if stop.number:
        raise Interrupted(
            stop.number, f"{runner.study.study_name} stopped; to continue it, run {_same_command(runner.options)}"
        )
    return confirmed


def _same_command(options: Search) -> str:
    return "the same command" + " without --new" * options.new


def _about_paused(runner: StudyRunner) -> str:
    """What becomes of the trials that are still paused; empty if none are."""
    waiting = [trial.number for trial in runner.study.get_trials(deepcopy=False) if is_paused(trial)]
    if not waiting:
        return ""
    folders = [runner.runs[number].folder / CHECKPOINTS for number in waiting if number in runner.runs]
    taken = sum(path.stat().st_size for folder in folders for path in folder.glob("*"))
    keep, them = ("trial keeps", "it") if len(waiting) == 1 else ("trials keep", "them")
    command = ("with more --trials, " if runner.have_begun() else "") + _same_command(runner.options)
    return (
        f"{len(waiting)} paused {keep} {size(taken)} of checkpoints: {command} may resume {them}; "
        f"labbook rm {runner.parent.id} removes the study"
    )


@contextmanager
def _opened(
    spec: RunSpec, within: space.Space, options: Search, goals: Goals
) -> Iterator[tuple[optuna.storages.BaseStorage, optuna.Study]]:
    """Context manager: the storage and the study in it, created or loaded. A study in a local file is locked."""
    info, experiment = spec.info, spec.experiment
    parts = (info.experiment, info.variant, "smoke" if spec.launch.smoke else None)
    name = options.study or "-".join(part for part in parts if part)
    folder = _folder(name)
    directions: list[Direction] = ["maximize" if goals.larger_is_better(goal) else "minimize" for goal in goals.names]
    settings = _identity(within, experiment, goals)
    with _lock_study(folder, name) if options.storage is None else nullcontext():
        storage = open_storage(options.storage, folder)

        def queue(study: optuna.Study) -> None:
            _queue(study, within, experiment, options, goals)

        defaults = {field: str(value) for field, value in experiment.defaults().items()}
        study = open_study(storage, name, options.new, directions, settings, defaults, queue)
        name = options.pruner if len(goals.names) == 1 else "none"
        study.pruner = samplers.pruner(name, goals.folds or experiment.epochs, options.trials)
        yield storage, study


def _identity(within: space.Space, experiment: Experiment, goals: Goals) -> dict[str, str]:
    """Returns the settings that identify a study: SPACE, the declaration, and the goals, as name -> text."""
    settings = {f"SPACE {name}": dimension for name, dimension in space.text(within).items()}
    settings |= {name: str(value) for name, value in experiment.flat().items()}
    over = f", mean of {goals.folds} folds" if goals.folds else ""
    return settings | {"goal": f"{', '.join(goals.names)} ({goals.epoch} epoch{over})"}


@contextmanager
def _lock_study(folder: Any, name: str) -> Iterator[None]:
    try:
        with locked(folder):
            yield
    except UserError as mistakes:
        if "another process" not in str(mistakes):
            raise
        raise UserError(
            [f"study {name}: another search is running it; --study NAME creates a study with another name"]
        ) from None


@contextmanager
def _parent(study: optuna.Study, spec: RunSpec, options: Search, mirror: Follows) -> Iterator[tuple[Run, Journal]]:
    """Context manager: the run of the study, created or reopened. Its journal records how the body ends."""
    token = study.user_attrs[TOKEN]
    known = ((run, run.record.get("study")) for run in intact(Run.of_experiment(spec.info.experiment)))
    earlier = (run for run, named in known if isinstance(named, dict) and named.get("token") == token)
    # a search on another machine, or in another terminal, has a separate run
    free = next((r for r in earlier if is_free(r.folder)), None)
    if free:
        run, journal = free, Journal(free.folder)
        reopen_run(journal)
    else:
        run, journal = new_run(spec.info.experiment)
        chosen = {f"search.{name}": str(value) for name, value in options.flat().items() if name != "storage"}
        tags = {"study": study.study_name, "smoke": str(spec.launch.smoke).lower(), **chosen}
        facts = open_journal(journal, spec, f"study {study.study_name}", tags)
        named = {"name": study.study_name, "token": token}
        write_record(journal, spec, facts, study=named)
    mirror.follow(run.folder)
    status = "FAILED"
    try:
        with locked(run.folder):
            yield run, journal
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    except Failing as error:
        journal.write("tags", values={"error": str(error)[:1000]})
        raise
    finally:
        write_summary(run, status)
        journal.close(status)


def _queue(study: optuna.Study, within: space.Space, experiment: Experiment, options: Search, goals: Goals) -> None:
    """Enqueue the declaration as the first trial, so that a study can only improve on it, then the points of a grid."""
    study.set_metric_names(list(goals.names))
    study.enqueue_trial(space.declared(within, experiment), user_attrs={DECLARED: True})
    if options.sampler == "grid":
        for point in samplers.grid(within):
            if experiment.but(space.changes_of(within, point)) != experiment:
                study.enqueue_trial(point)


def _save_results(journal: Journal, runner: StudyRunner, confirmed: list[Confirmed]) -> None:
    """Save the results so far: the best declaration, its value, and the number of trials by state."""
    best, finished = best_of(runner.study), runner.finished()
    counts = {state.name.lower(): sum(t.state == state for t in finished) for state in {t.state for t in finished}}
    journal.metrics(len(finished), {f"study/{name}": float(count) for name, count in counts.items()})
    if not best:
        return
    goals, study, length = runner.goals, runner.study, len(finished)
    raced = verdict_of(study)
    found = [raced.mean] if raced else best[0].values
    for name, value in zip(goals.names, found, strict=True):
        journal.metrics(length, {f"study/best_{name.rpartition('/')[2]}": value})
    chosen = next((t for t in best if confirmed and t.number == confirmed[0].trial), best[0])
    run = runner.runs.get(chosen.number)
    content = {
        "labbook": VERSION,
        "experiment": runner.info.experiment,
        "study": study.study_name,
        "trial": chosen.number,
        "run": run.id if run else None,
        "scores": dict(zip(goals.names, found if raced else chosen.values, strict=True)),
        "declaration": runner.declaration(chosen).record(),
    }
    log_text(journal, BEST, json.dumps(content, indent=2) + "\n")
    if raced:
        ends = {"low": raced.low, "high": raced.high, "expected_regret": raced.regret, "seeds": float(raced.seeds)}
        journal.metrics(length, {f"study/race_{name}": value for name, value in ends.items()})
        log_text(journal, "study/race.txt", message(study, goals) + "\n")
    if confirmed:
        journal.metrics(length, {"study/confirmed": confirmed[0].mean})
        log_text(journal, "study/confirmed.txt", "\n".join(messages(runner, confirmed)) + "\n")
    log_plots(journal, study, goals)


def _announce(runner: StudyRunner) -> None:
    options, study = runner.options, runner.study
    done = len(runner.finished())
    progress = f" ({done} finished)" if done else ""
    race = f", up to {options.race} seeds" if options.race else ""
    stacked = f", {options.at_once} trials at once each" if options.at_once > 1 else ""
    runner.display.say(
        f"{study.study_name}: {options.trials} trials{progress}, goal {', '.join(runner.goals.names)}; "
        f"sampler {options.sampler}, pruner {options.pruner}{race}; "
        f"{options.workers} workers with {runner.launch.threads} threads each{stacked}"
    )
    if len(runner.goals.names) > 1 and options.pruner != "none":
        runner.display.say("trials are not pruned: the study has several goals")
    if note := samplers.limits(options.sampler, runner.space):
        runner.display.say(note)
    workers = min(options.workers, options.trials)
    need, room = workers * provenance.peak_memory_mb(), _free_memory_mb()
    if options.cluster == "local" and need > room:
        runner.display.say(
            f"warning: {workers} workers may need {need:,.0f} MB of memory, but only {room:,.0f} MB are free"
        )


def _shared(launch: Launch, options: Search) -> Launch:
    """The launch of a trial: CPU threads are divided among the workers of this machine, and so are loader processes
    with a GPU. On a cluster, each worker has its own."""
    if options.cluster == "ray":
        return launch.but({"threads": launch.threads or 1, "workers": options.loader_workers})
    threads = launch.threads or threads_each(options.workers)
    loaders = options.loader_workers
    if loaders is None and torch.cuda.is_available():
        loaders = max(1, min(8, usable_cores() // options.workers - 1))
    return launch.but({"threads": threads, "workers": loaders})


def _folder(name: str) -> Any:
    folder = paths.home() / "mlruns" / "studies" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        advice = "set LABBOOK_HOME to another folder for mlruns/ and data/store"
        raise UserError([f"studies cannot be written to {folder.parent}: {error.strerror}; {advice}"]) from None
    return folder


def _free_memory_mb() -> float:
    import psutil

    available: int = psutil.virtual_memory().available
    return available / 2**20
