"""One run, from a declaration or from its last checkpoint to its record; alone, or shared among processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from core.common.ranks import Ranks
from core.experiment import Experiment
from core.launch import Launch
from core.record.journal import Journal
from core.record.lock import locked
from core.runs.recorder import Heading, RunSpec, new_run, open_run
from core.runs.resume import take_over
from core.runs.trained import Run
from core.runs.trainer import Trainer
from core.tracking.api import Follows
from core.training import distributed
from core.training.assemble import prepare
from core.training.runtime import Runtime, open_runtime
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
    spec = RunSpec.of(experiment, launch, heading)
    with open_runtime(spec.launch, mirror) as runtime, opened(spec, runtime, continued) as trainer:
        trainer.to_the_end()
    return trainer.run


@contextmanager
def opened(spec: RunSpec, runtime: Runtime, continued: Run | None = None) -> Iterator[Trainer]:
    """A new run, ended on record with the body. Raises as `train` does."""
    parts = prepare(declared(spec.experiment, spec.launch, runtime.ranks), spec.launch, runtime.ranks)
    if continued:
        distributed.together(lambda: take_over(continued, parts))
    run, journal = begin(spec.heading, runtime.ranks)
    trainer = Trainer(run, journal, parts, runtime)
    with ExitStack() as held:
        if journal:
            held.enter_context(locked(run.folder))
        held.enter_context(trainer.on_record())
        if journal:
            open_run(journal, spec.heading, parts, continued)
        yield trainer


def begin(heading: Heading, ranks: Ranks) -> tuple[Run, Journal | None]:
    """A new run, the same for every process; the journal is the first one's alone. Raises UserError."""
    opened = distributed.together(lambda: None if ranks.rank else new_run(heading.experiment))
    run = distributed.from_first(opened[0] if opened else None)
    assert run is not None
    return run, opened[1] if opened else None
