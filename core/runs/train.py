"""One run, from a declaration or from its last checkpoint to its record; alone, or shared among processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from core.common.ranks import Ranks
from core.experiment import Experiment
from core.launch import Launch
from core.record.journal import Journal
from core.record.lock import locked
from core.runs.recorder import Heading, new_run, open_run
from core.runs.resume import take_over
from core.runs.trained import Run
from core.runs.trainer import Work
from core.tracking.api import Follows
from core.training import distributed
from core.training.assemble import prepare
from core.training.runtime import Stage, staged
from core.training.smoke import declared


def train(
    experiment: Experiment,
    launch: Launch | None = None,
    heading: Heading | str = "notebook",
    mirror: Follows | None = None,
    continued: Run | None = None,
) -> Run:
    """Train a declaration and return its run, on record from the first step.

    heading: or just the experiment's name.  mirror: of an invocation with several runs; else one is started and ended
    here.  continued: a finished run whose state this one begins with. Raises UserError (DataError among them) before
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
    """A new run, the same for every process; the journal is the first one's alone. Raises UserError."""
    opened = distributed.together(lambda: None if ranks.rank else new_run(heading.experiment))
    run = distributed.from_first(opened[0] if opened else None)
    assert run is not None
    return run, opened[1] if opened else None
