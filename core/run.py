"""One run: build the parts, fit, test once, write the record."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from core import paths, plots, provenance
from core.build import Assembly, assemble, check, device_of, held_out, smoked
from core.checkpoint import CHECKPOINTS, Saver, belongs, latest
from core.evaluate import evaluate
from core.experiment import Experiment
from core.images import Splits
from core.journal import Journal
from core.launch import Launch
from core.lock import is_free, locked
from core.loop import Event, fit
from core.part import Mistakes
from core.progress import Forecast, progress
from core.record import RECORD, WEIGHTS, Run
from core.signals import Interrupted, Stop
from core.stopping import best_epoch
from core.terminal import tell
from core.tracking import Mirror
from core.views import averaged
from core.writing import Heading, new_run, open_run, reopen_run, save_weights, write_summary


def train(
    experiment: Experiment,
    launch: Launch | None = None,
    heading: Heading | str = "notebook",
    mirror: Mirror | None = None,
) -> Run:
    """Train a declaration and return its run, on record from the first step.

    heading: or just the experiment's name.  mirror: of an invocation with several runs; else one is started and ended
    here. Raises Mistakes (DataError among them) before anything is recorded, Interrupted after SIGTERM or Ctrl-C, and
    whatever the training itself raises, recorded as FAILED.
    """
    launch = launch or Launch()
    heading = Heading(heading) if isinstance(heading, str) else heading
    experiment = smoked(experiment) if launch.smoke else experiment
    with mirrored(mirror) as following, Stop() as stop, _process(launch):
        splits, parts = prepare(experiment, launch)
        run, journal = new_run(heading.experiment)
        with locked(run.folder), _recorded(run, journal, experiment, parts):
            open_run(journal, run, experiment, launch, heading, splits, parts)
            if launch.mlflow:
                following.follow(run.folder)
            _fit(run, journal, experiment, launch, parts, stop)
            _test(journal, experiment, splits, parts)
    return run


def resume(run: Run, mirror: Mirror | None = None) -> Run:
    """Go on with an interrupted run from its last checkpoint, or from the start where it has none.

    It ends in the same weights and metrics as if it had never stopped. Raises as `train` does; Mistakes for a run that
    has ended, that another process is at work on, or whose data have changed.
    """
    experiment, launch = run.experiment, Launch.read(run.record["launch"])
    if run.status in ("FINISHED", "FAILED"):
        raise Mistakes([f"{run.id} is {run.status}: there is nothing to resume"])
    with locked(run.folder), mirrored(mirror) as following, Stop() as stop, _process(launch):
        splits, parts = prepare(experiment, launch)
        if splits.digest != run.record["data"]["digest"]:
            raise Mistakes([f"{run.id}: the data have changed since it began ({splits.source})"])
        journal = Journal(run.folder)
        with _recorded(run, journal, experiment, parts):
            reopen_run(journal, run)
            if launch.mlflow:
                following.follow(run.folder)
            _restore(run, journal, parts)
            _fit(run, journal, experiment, launch, parts, stop)
            _test(journal, experiment, splits, parts)
    return run


def interrupted(experiment: str) -> Run:
    """The latest run of this experiment that has not ended and that nobody is at work on. Raises Mistakes."""
    records = sorted(paths.runs().glob(f"{experiment}-*/artifacts/{RECORD}"), reverse=True)
    for run in (Run(path.parent.parent) for path in records):
        if run.record["experiment"] == experiment and run.status not in ("FINISHED", "FAILED") and is_free(run.folder):
            return run
    raise Mistakes([f"no interrupted run of {experiment} in {paths.runs()}"])


@contextmanager
def _recorded(run: Run, journal: Journal, experiment: Experiment, parts: Assembly) -> Iterator[None]:
    """However the body ends, the journal tells."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except BaseException as error:
        journal.write("tags", values={"error": f"{type(error).__name__}: {error}"[:1000]})
        journal.artifact("error.txt").write_text(traceback.format_exc())
        journal.keep("error.txt")
        raise
    finally:
        _close(journal, run, experiment, parts, status)


def _restore(run: Run, journal: Journal, parts: Assembly) -> None:
    """Take up the last whole checkpoint, and say aloud what the bits may not survive."""
    found, wrong = latest(run.folder / CHECKPOINTS)
    for line in wrong:
        tell(f"{line}; the checkpoint before is used")
    if found is None:
        tell(f"{run.id} has no checkpoint: it starts anew")
        return
    parts.state.restore(found.state)
    changed = [name for name, value in belongs(parts).items() if found.belongs.get(name) != value]
    if changed:
        told = ", ".join(f"{name}: {found.belongs.get(name)} then, {belongs(parts)[name]} now" for name in changed)
        tell(f"not bit-exact any more: {told}")
        journal.write("tags", values={"resumed_elsewhere": told})
    tell(f"{run.id} goes on after step {found.step}")


def prepare(experiment: Experiment, launch: Launch) -> tuple[Splits, Assembly]:
    """Everything that can be refused, in the order of its cost. Raises Mistakes, DataError among them."""
    check(experiment)
    device = device_of(launch)
    splits = experiment.data.load(launch.root)
    splits = splits.limited(experiment.limit) if experiment.limit else splits
    return splits, assemble(experiment, splits, launch, device)


def _fit(run: Run, journal: Journal, experiment: Experiment, launch: Launch, parts: Assembly, stop: Stop) -> None:
    """Iterate the loop: journal, best weights, progress, checkpoints, signals."""
    steps, state = parts.context.steps_per_epoch, parts.state
    forecast = Forecast(steps * experiment.epochs, overhead=parts.val.plan.count / parts.train.plan.count / 3)
    saver = Saver(run.folder / CHECKPOINTS, launch.checkpoint_every, belongs(parts))
    with progress(experiment.epochs, steps, experiment.batch_size, state.step) as shown, stop.at_step_end():
        shown.say(_opening(run, parts))
        for event in fit(parts.setup, state, parts.train, parts.val):
            _record(journal, experiment, parts, event)
            shown.show(event)
            if not event.validation and (announcement := forecast.after_step()):
                shown.say(announcement)
            if stop.number or saver.due(event.step):
                journal.sync()
                saver.save(state)
            if stop.number:
                saver.wait()
                where = f"{run.id} stopped and saved at the end of step {event.step}"
                raise Interrupted(stop.number, where, run.id)
    saver.wait()


def _opening(run: Run, parts: Assembly) -> str:
    device, threads = parts.setup.device, torch.get_num_threads()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    where = f"{name} ({threads} threads)" if device.type == "cpu" else name
    weights = sum(p.numel() for p in parts.state.model.parameters())
    images = f"{parts.train.plan.count:,} + {parts.val.plan.count:,} images"
    return f"{run.id}: {images}, {weights:,} parameters, {where}, {parts.precision}"


def _record(journal: Journal, experiment: Experiment, parts: Assembly, event: Event) -> None:
    if event.validation is None:
        if event.metrics:
            journal.metrics(event.step, event.metrics)
        return
    journal.metrics(event.epoch + 1, event.metrics)
    if best_epoch(parts.state.history, experiment.select) == event.epoch:
        save_weights(parts.state.evaluated, journal.artifact(WEIGHTS))


def _test(journal: Journal, experiment: Experiment, splits: Splits, parts: Assembly) -> None:
    """The one reading of the test split: the best epoch's weights, at the end."""
    from safetensors.torch import load_file

    model = parts.state.evaluated
    model.load_state_dict(load_file(journal.artifact(WEIGHTS)))
    batches, views = held_out(splits.test, parts.setup.device), averaged(model, experiment.tta)
    with parts.setup.precision():
        result = evaluate(views, parts.setup.loss, batches, parts.setup.normalise, parts.setup.classes)
    best = best_epoch(parts.state.history, experiment.select)
    journal.metrics(best + 1, {f"test/{name}": value for name, value in result.metrics.items()})
    table = result.confusion.numpy()
    title = f"test accuracy {result.metrics['accuracy']:.2%} (n = {int(table.sum()):,})"
    plots.confusion_matrix(table, splits.classes, journal.artifact("confusion_matrix.png"), title)
    lines = [",".join(["true \\ predicted", *splits.classes])]
    lines += [",".join([name, *map(str, row)]) for name, row in zip(splits.classes, table.tolist(), strict=True)]
    journal.artifact("confusion_matrix.csv").write_text("\n".join(lines) + "\n")
    for name in ("confusion_matrix.png", "confusion_matrix.csv"):
        journal.keep(name)


def _close(journal: Journal, run: Run, experiment: Experiment, parts: Assembly, status: str) -> None:
    """What can be said of a run however it ended."""
    history = parts.state.history
    try:
        if history:
            best = best_epoch(history, experiment.select)
            journal.write("tags", values={"best_epoch": str(best + 1), "epochs_done": str(len(history))})
            journal.keep(WEIGHTS)
            plots.learning_curves(history, best, journal.artifact("learning_curves.png"))
            journal.keep("learning_curves.png")
        journal.metrics(len(history), {"peak_memory_mb": peak_memory_mb(parts.setup.device)})
    finally:
        journal.close(status)
        write_summary(run)


def peak_memory_mb(device: torch.device) -> float:
    """Of the device that trains: CUDA's allocations, else resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return provenance.peak_memory_mb()


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
def _process(launch: Launch) -> Iterator[None]:
    """Threads and determinism for the time of a run."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(launch.threads or provenance.cores())
    if launch.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not launch.deterministic
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
