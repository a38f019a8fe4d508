"""train(): trains one declaration and records it as a run, in one process or in several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from core.common.errors import UserError
from core.common.ranks import Ranks
from core.experiment import Experiment
from core.launch import Launch
from core.record.journal import Journal
from core.record.lock import locked
from core.runs.recorder import RunInfo, RunSpec, new_run, open_run
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
    info: RunInfo | str = "notebook",
    mirror: Follows | None = None,
    continued: Run | None = None,
    like: Run | None = None,
) -> Run:
    """Train a declaration and return its run, which is recorded from the first step.

    info: a RunInfo, or the name of the experiment.  mirror: shared by an invocation with several runs; if None, one
    is started and stopped here.  continued: a finished run whose final state this run starts from.  like: an earlier
    run that is repeated, see `prepare`.

    Raises UserError (including DataError) before anything is recorded, Interrupted after SIGTERM or Ctrl-C, Unfinished
    after a failure of the machine, and any exception of the training itself, which is recorded as FAILED.
    """
    spec = RunSpec.of(experiment, launch, info)
    if spec.launch.together:
        raise UserError(["together: it trains several seeds; use --seeds, or train_seeds in Python"])
    with open_runtime(spec.launch, mirror) as runtime, opened(spec, runtime, continued, like) as trainer:
        trainer.to_the_end()
    return trainer.run


@contextmanager
def opened(spec: RunSpec, runtime: Runtime, continued: Run | None = None, like: Run | None = None) -> Iterator[Trainer]:
    """Open a new run; its end is recorded at exit. Raises as `train` does."""
    experiment = declared(spec.experiment, spec.launch, runtime.ranks)
    parts = prepare(experiment, spec.launch, runtime.ranks, continued or like)
    if continued:
        distributed.together(lambda: take_over(continued, parts))
    run, journal = begin(spec.info, runtime.ranks)
    trainer = Trainer(run, journal, parts, runtime)
    with ExitStack() as held:
        if journal:
            held.enter_context(locked(run.folder))
        held.enter_context(trainer.on_record())
        if journal:
            open_run(journal, spec.info, parts, continued)
        yield trainer


def begin(info: RunInfo, ranks: Ranks) -> tuple[Run, Journal | None]:
    """Create a run, the same in every process, with its journal in rank 0 and None elsewhere. Raises UserError."""
    opened = distributed.together(lambda: None if ranks.rank else new_run(info.experiment))
    run = distributed.from_first(opened[0] if opened else None)
    assert run is not None
    return run, opened[1] if opened else None
