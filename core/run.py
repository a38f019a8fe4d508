"""One run: build the parts, fit, test once, write the record. Alone, or with other processes that share the work."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import torch

from core import anomaly, distributed, paths, provenance
from core.build import Assembly, assemble, check, connect, device_of
from core.checkpoint import CHECKPOINTS, Saver, belongs, keep_last
from core.experiment import Experiment
from core.failures import Unfinished, explained
from core.history import best_epoch
from core.images import Splits
from core.journal import Journal
from core.launch import Launch
from core.lock import is_free, locked
from core.loop import Event, fit
from core.overfit import declared
from core.part import Mistakes
from core.progress import Forecast, progress
from core.ranks import Ranks
from core.record import RECORD, WEIGHTS, Run
from core.restore import restore, take_over
from core.result import close, judged, test
from core.signals import Interrupted, Stop
from core.state import State
from core.tracking import Mirror
from core.watching import watching
from core.writing import Heading, keep_text, new_run, open_run, reopen_run, save_weights


@dataclass(frozen=True)
class Stage:
    """What surrounds a run: its mirror, signals sent to this process, the processes that share the work."""

    mirror: Mirror
    stop: Stop
    ranks: Ranks


def train(
    experiment: Experiment,
    launch: Launch | None = None,
    heading: Heading | str = "notebook",
    mirror: Mirror | None = None,
    continued: Run | None = None,
) -> Run:
    """Train a declaration and return its run, on record from the first step.

    heading: or just the experiment's name.  mirror: of an invocation with several runs; else one is started and ended
    here.  continued: a finished run whose state this one begins with. Raises Mistakes (DataError among them) before
    anything is recorded, Interrupted after SIGTERM or Ctrl-C, Unfinished where the machine failed it, and whatever the
    training itself raises, recorded as FAILED.
    """
    launch = launch or Launch()
    heading = Heading(heading) if isinstance(heading, str) else heading
    with staged(launch, mirror) as stage:
        small = declared(experiment, launch, stage.ranks)
        splits, parts = prepare(small, launch, stage.ranks)
        if continued:
            distributed.together(lambda: take_over(continued, splits, parts))
        run, journal = begin(heading, stage.ranks)
        if journal is None:
            return _assist(run, small, splits, parts, stage)
        with locked(run.folder), _recorded(run, journal, small, parts):
            open_run(journal, run, small, launch, heading, splits, parts, continued)
            _work(run, journal, small, launch, splits, parts, stage)
    return run


def begin(heading: Heading, ranks: Ranks) -> tuple[Run, Journal | None]:
    """A new run, the same for every process; the journal is the first one's alone. Raises Mistakes."""
    opened = distributed.together(lambda: None if ranks.rank else new_run(heading.experiment))
    run = distributed.from_first(opened[0] if opened else None)
    assert run is not None
    return run, opened[1] if opened else None


def resume(run: Run, mirror: Mirror | None = None) -> Run:
    """Go on with an interrupted run from its last checkpoint, or from the start where it has none.

    It ends in the same weights and metrics as if it had never stopped. Raises as `train` does; Mistakes for a run that
    has finished, that another process is at work on, or whose data have changed.
    """
    experiment, launch = run.experiment, Launch.read(run.record["launch"])
    with ExitStack() as held, staged(launch, mirror) as stage:
        first = stage.ranks.rank == 0
        distributed.together(lambda: held.enter_context(taken_up(run)) if first else None)
        splits, parts = prepare(experiment, launch, stage.ranks)
        if splits.digest != run.record["data"]["digest"]:
            raise Mistakes([f"{run.id}: the data have changed since it began ({splits.source})"])
        if not first:
            restore(run, None, splits, parts)
            return _assist(run, experiment, splits, parts, stage)
        journal = Journal(run.folder)
        with _recorded(run, journal, experiment, parts):
            reopen_run(journal, run)
            restore(run, journal, splits, parts)
            _work(run, journal, experiment, launch, splits, parts, stage)
    return run


def interrupted(experiment: str) -> Run:
    """The latest run of this experiment that has not ended and that nobody is at work on; of several seeds, the parent
    that holds them. Raises Mistakes."""
    for run in runs_of(experiment):
        if run.status not in ("FINISHED", "FAILED") and is_free(run.folder):
            parent = Run(paths.runs() / above) if (above := run.record.get("parent")) else run
            return parent if parent.status not in ("FINISHED", "FAILED") and is_free(parent.folder) else run
    raise Mistakes([f"no interrupted run of {experiment} in {paths.runs()}"])


def begun(experiment: Experiment, name: str, invocation: str | None, seeds: int = 1) -> Run | None:
    """The latest run of this declaration that an earlier start of the same job has begun; None if there is none."""
    for run in runs_of(name) if invocation else ():
        record = run.record
        same = record["declaration"] == experiment.record() and record.get("seeds", 1) == seeds
        if same and record["facts"].get("invocation") == invocation and is_free(run.folder):
            return run
    return None


def runs_of(experiment: str) -> Iterator[Run]:
    """Runs on record of this experiment, the latest first."""
    records = sorted(paths.runs().glob(f"{experiment}-*/artifacts/{RECORD}"), reverse=True)
    for run in (Run(path.parent.parent) for path in records):
        if run.record["experiment"] == experiment:
            yield run


@contextmanager
def taken_up(run: Run) -> Iterator[None]:
    """Hold an unfinished run. Raises Mistakes."""
    if run.status == "FINISHED":
        raise Mistakes([f"{run.id} is FINISHED: there is nothing to resume; --continue {run.id} trains it for longer"])
    with locked(run.folder):
        yield


@contextmanager
def _recorded(run: Run, journal: Journal, experiment: Experiment, parts: Assembly) -> Iterator[None]:
    """However the body ends, the journal tells. What the machine did to a run leaves it KILLED, to be resumed."""
    try:
        with distributed.peers():
            yield
        close(journal, run, experiment, parts, "FINISHED")
    except BaseException as error:
        better = explained(error, run.id, parts.state.step)
        stopped = isinstance(better, KeyboardInterrupt | Unfinished)
        with suppress(OSError):  # a full disk: what is raised below says so
            if not isinstance(error, KeyboardInterrupt):
                journal.write("tags", values={"error": f"{type(better).__name__}: {better}"[:1000]})
                keep_text(journal, "error.txt", traceback.format_exc())
        with suppress(OSError):
            close(journal, run, experiment, parts, "KILLED" if stopped else "FAILED")
        if better is error:
            raise
        raise better from error


def _work(
    run: Run, journal: Journal, experiment: Experiment, launch: Launch, splits: Splits, parts: Assembly, stage: Stage
) -> None:
    """From an open journal to the last figure."""
    if launch.mlflow:
        stage.mirror.follow(run.folder)
    _fit(run, journal, experiment, launch, parts, stage.stop)
    test(journal, experiment, splits, parts)
    keep_last(run.folder / CHECKPOINTS)


def _assist(run: Run, experiment: Experiment, splits: Splits, parts: Assembly, stage: Stage) -> Run:
    """What every process but the first does: the same steps, and nothing on record."""
    agreed = distributed.Agreement()
    with distributed.peers(), stage.stop.at_step_end():
        for _ in anomaly.explained(fit(parts.setup, parts.state, parts.train, parts.val), parts):
            if number := agreed(stage.stop.number):
                raise Interrupted(number, "stopped")
        agreed.settle()
        judged(experiment, splits, parts)
    return run


def prepare(experiment: Experiment, launch: Launch, ranks: Ranks) -> tuple[Splits, Assembly]:
    """Everything that can be refused, in every process before any goes on. Raises Mistakes, DataError among them."""
    splits, parts = distributed.together(lambda: _prepared(experiment, launch, ranks))
    connect(experiment, splits, parts)
    return splits, parts


def _prepared(experiment: Experiment, launch: Launch, ranks: Ranks) -> tuple[Splits, Assembly]:
    """In the order of its cost, and without a word to another process."""
    check(experiment)
    device = device_of(launch, ranks)
    splits = experiment.data.load(launch.root)
    splits = splits.limited(experiment.limit) if experiment.limit else splits
    return splits, assemble(experiment, splits, launch, device, ranks)


def _fit(run: Run, journal: Journal, experiment: Experiment, launch: Launch, parts: Assembly, stop: Stop) -> None:
    """Iterate the loop: journal, best weights, progress, checkpoints, signals."""
    steps, state = parts.context.steps_per_epoch, parts.state
    forecast = Forecast(steps * experiment.epochs, overhead=parts.val.plan.count / parts.train.plan.count / 3)
    agreed = distributed.Agreement()
    saver = Saver(run.folder / CHECKPOINTS, launch.checkpoint_every, belongs(parts))
    with (
        progress(experiment.epochs, steps, experiment.batch_size, state.step) as shown,
        stop.at_step_end(),
        watching(journal, experiment, launch, parts, shown.say) as watch,
    ):
        shown.say(_opening(run, parts))
        for event in anomaly.explained(fit(parts.setup, state, parts.train, parts.val), parts):
            watch(event)
            _record(journal, experiment, parts, event)
            shown.show(event)
            if not event.validation and (announcement := forecast.after_step()):
                shown.say(announcement)
            number = agreed(stop.number)
            if (number or saver.due(event.step)) and state.sound:
                _save(journal, saver, state)
            if number:
                saver.wait()
                raise Interrupted(number, f"{run.id} stopped and saved at the end of step {event.step}", run.id)
        agreed.settle()
        _save(journal, saver, state)
        saver.wait()
        shown.say(saver.cost())
    journal.metrics(state.step, {"checkpoint_seconds": saver.seconds_taken})


def _save(journal: Journal, saver: Saver, state: State) -> None:
    """The journal first: what a checkpoint has behind it is not done again, and so must not be lost."""
    journal.sync()
    saver.save(state)


def _opening(run: Run, parts: Assembly) -> str:
    device, threads = parts.setup.device, torch.get_num_threads()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    where = f"{name} ({threads} threads)" if device.type == "cpu" else name
    weights = sum(p.numel() for p in parts.state.model.parameters())
    images = f"{parts.train.plan.count:,} + {parts.val.plan.count:,} images"
    where += f", {parts.context.ranks} processes" if parts.context.ranks > 1 else ""
    return f"{run.id}: {images}, {weights:,} parameters, {where}, {parts.precision}"


def _record(journal: Journal, experiment: Experiment, parts: Assembly, event: Event) -> None:
    if event.validation is None:
        if event.metrics:
            journal.metrics(event.step, event.metrics)
        return
    journal.metrics(event.epoch + 1, event.metrics)
    if best_epoch(parts.state.history, experiment.select) == event.epoch:
        save_weights(parts.state.evaluated, journal.artifact(WEIGHTS))


@contextmanager
def mirrored(mirror: Mirror | None) -> Iterator[Mirror]:
    """The given mirror, or one of this run's own, ended with it."""
    if mirror is not None:
        yield mirror
        return
    own = Mirror()
    try:
        yield own
    finally:
        own.finish()


@contextmanager
def staged(launch: Launch, mirror: Mirror | None) -> Iterator[Stage]:
    """Everything around a run, ended with it."""
    with mirrored(mirror) as following, Stop() as stop, distributed.joined() as ranks, _process(launch, ranks):
        yield Stage(following, stop, ranks)


@contextmanager
def _process(launch: Launch, ranks: Ranks) -> Iterator[None]:
    """Threads and determinism for the time of a run. Processes on one machine share its cores."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(launch.threads or max(1, provenance.cores() // ranks.local_ranks))
    if launch.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not launch.deterministic
    try:
        with anomaly.anomaly_mode(launch.detect_anomaly):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
