"""One run, from a declaration or from its last checkpoint to its record; alone, or shared among processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from core import distributed, paths
from core.build import Assembly, assemble, check, connect, device_of
from core.experiment import Experiment
from core.images import Splits
from core.journal import Journal
from core.launch import Launch
from core.lock import is_free, locked
from core.overfit import declared
from core.part import Mistakes
from core.ranks import Ranks
from core.record import Run, declares, runs_of
from core.restore import restore, take_over
from core.stage import Stage, staged
from core.tracking import Follows
from core.work import Work
from core.writing import Heading, new_run, open_run, reopen_run


def train(
    experiment: Experiment,
    launch: Launch | None = None,
    heading: Heading | str = "notebook",
    mirror: Follows | None = None,
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
    with staged(launch, mirror) as stage, opened(experiment, launch, heading, stage, continued) as work:
        work.to_the_end()
    return work.run


@contextmanager
def opened(
    experiment: Experiment, launch: Launch, heading: Heading, stage: Stage, continued: Run | None = None
) -> Iterator[Work]:
    """A new run, ended on record with the body. Raises as `train` does."""
    small = declared(experiment, launch, stage.ranks)
    splits, parts = prepare(small, launch, stage.ranks)
    if continued:
        distributed.together(lambda: take_over(continued, splits, parts))
    run, journal = begin(heading, stage.ranks)
    work = Work(run, journal, small, launch, splits, parts, stage)
    with ExitStack() as held:
        if journal:
            held.enter_context(locked(run.folder))
        held.enter_context(work.on_record())
        if journal:
            open_run(journal, run, small, launch, heading, splits, parts, continued)
        yield work


def begin(heading: Heading, ranks: Ranks) -> tuple[Run, Journal | None]:
    """A new run, the same for every process; the journal is the first one's alone. Raises Mistakes."""
    opened = distributed.together(lambda: None if ranks.rank else new_run(heading.experiment))
    run = distributed.from_first(opened[0] if opened else None)
    assert run is not None
    return run, opened[1] if opened else None


def resume(run: Run, mirror: Follows | None = None) -> Run:
    """Go on with an interrupted run from its last checkpoint, or from the start where it has none.

    It ends in the same weights and metrics as if it had never stopped. Raises as `train` does; Mistakes for a run that
    has finished, that another process is at work on, or whose data have changed.
    """
    _ = run.experiment  # an imported run is refused before its launch is read: it has none
    with staged(Launch.read(run.record["launch"]), mirror) as stage, reopened(run, stage) as work:
        work.to_the_end()
    return run


@contextmanager
def reopened(run: Run, stage: Stage) -> Iterator[Work]:
    """An unfinished run with its last state, ended on record with the body. Raises as `resume` does."""
    experiment, launch = run.experiment, Launch.read(run.record["launch"])
    with ExitStack() as held:
        first = stage.ranks.rank == 0
        distributed.together(lambda: held.enter_context(taken_up(run)) if first else None)
        splits, parts = prepare(experiment, launch, stage.ranks)
        if splits.digest != run.record["data"]["digest"]:
            raise Mistakes([f"{run.id}: the data have changed since it began ({splits.source})"])
        refuse_other_weights(run)
        journal = Journal(run.folder) if first else None
        work = Work(run, journal, experiment, launch, splits, parts, stage)
        with work.on_record():
            if journal:
                reopen_run(journal, run)
            restore(run, journal, splits, parts)
            yield work


def refuse_other_weights(run: Run) -> None:
    """Raises Mistakes where the pretrained weights that a run began with are no longer what they were."""
    recorded, now = run.record.get("weights"), run.experiment.model.origin()
    if recorded and now and now.sha256 != recorded["sha256"]:
        raise Mistakes([f"{run.id}: the weights in {now.path} have changed since it began; put back the old file"])


def interrupted(experiment: str) -> Run:
    """The latest run of this experiment that has not ended and that nobody is at work on; of several seeds, the parent
    that holds them. Raises Mistakes."""
    for run in runs_of(experiment):
        if in_study(run):
            continue
        if run.status not in ("FINISHED", "FAILED") and is_free(run.folder):
            parent = Run(paths.runs() / above) if (above := run.record.get("parent")) else run
            return parent if parent.status not in ("FINISHED", "FAILED") and is_free(parent.folder) else run
    raise Mistakes([f"no interrupted run of {experiment} in {paths.runs()}"])


def in_study(run: Run) -> bool:
    """Whether it is a study's run or stands below one: those go on with the search that began them."""
    above = run.record.get("parent")
    folder = paths.runs() / above if above else run.folder
    return (Run(folder) if folder.exists() else run).record.get("study") is not None


def begun(experiment: Experiment, name: str, invocation: str | None, seeds: int = 1) -> Run | None:
    """The latest run of this declaration that an earlier start of the same job has begun; None if there is none."""
    for run in runs_of(name) if invocation else ():
        record = run.record
        same = record["facts"].get("invocation") == invocation and record.get("seeds", 1) == seeds
        if same and declares(record, experiment) and is_free(run.folder):
            return run
    return None


@contextmanager
def taken_up(run: Run) -> Iterator[None]:
    """Hold an unfinished run. Raises Mistakes."""
    if run.status == "FINISHED":
        raise Mistakes([f"{run.id} is FINISHED: there is nothing to resume; --continue {run.id} trains it for longer"])
    with locked(run.folder):
        yield


def prepare(experiment: Experiment, launch: Launch, ranks: Ranks) -> tuple[Splits, Assembly]:
    """Everything that can be refused, in every process before any goes on. Raises Mistakes, DataError among them."""
    splits, parts = distributed.together(lambda: _prepared(experiment, launch, ranks))
    connect(experiment, splits, parts)
    return splits, parts


def _prepared(experiment: Experiment, launch: Launch, ranks: Ranks) -> tuple[Splits, Assembly]:
    """In the order of its cost, and without a word to another process."""
    check(experiment)
    device = device_of(launch, ranks)
    splits = load_splits(experiment, launch)
    return splits, assemble(experiment, splits, launch, device, ranks)


def load_splits(experiment: Experiment, launch: Launch) -> Splits:
    """The images that a declaration trains on. Raises DataError."""
    splits = experiment.data.load(launch.root)
    return splits.limited(experiment.limit) if experiment.limit else splits
