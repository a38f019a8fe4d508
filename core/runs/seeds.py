"""Several seeds of one declaration: runs under a parent run that holds their mean, deviation and interval."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from core.common.errors import Interrupted, NonFinite, Unfinished, UserError
from core.common.terminal import tell
from core.experiment import Experiment
from core.launch import Launch
from core.record.journal import Journal
from core.record.lock import locked
from core.record.run import write_summary
from core.runs.recorder import Heading, keep_record, open_journal, reopen_run
from core.runs.resume import resume, taken_up
from core.runs.seed_summary import fold
from core.runs.train import begin, train
from core.runs.trained import Run
from core.tracking.api import Follows
from core.training import distributed
from core.training.assemble import prepare
from core.training.runtime import staged
from core.training.smoke import declared


@dataclass(frozen=True)
class Seeds:
    """parent: the run that holds the summary.  runs: those that finished.  failed: seed -> error of the others."""

    parent: Run
    runs: tuple[Run, ...]
    failed: dict[int, str]


def train_seeds(
    experiment: Experiment,
    seeds: int,
    launch: Launch | None = None,
    heading: Heading | str = "notebook",
    mirror: Follows | None = None,
) -> Seeds:
    """Train `seeds` runs, their seeds counting up from the declaration's. A failed one is kept in sight and the rest
    go on. Raises as `train` does for mistakes, signals and a machine that fails."""
    launch = launch or Launch()
    heading = Heading(heading) if isinstance(heading, str) else heading
    with staged(launch, mirror) as stage:
        experiment.but({"seed": experiment.seed + seeds - 1})
        small = declared(experiment, launch, stage.ranks)
        # what is refused is refused before there is a parent
        prepare(small, launch, stage.ranks)
        parent, journal = begin(heading, stage.ranks)
        if journal is None:
            return _assist(parent, experiment, seeds, launch, heading, stage.mirror)
        tags = {"seeds": str(seeds), "smoke": str(launch.smoke).lower()}
        with locked(parent.folder):
            facts = open_journal(journal, parent, heading, f"{heading.title} {seeds} seeds", experiment.flat(), tags)
            keep_record(journal, parent, experiment, launch, heading, facts, seeds=seeds, title=heading.title)
            return _train_all(parent, journal, experiment, seeds, launch, heading, stage.mirror)


def resume_seeds(parent: Run, mirror: Follows | None = None) -> Seeds:
    """Go on with several seeds: those that have finished count, an interrupted one is resumed, the rest are trained.
    Raises as `resume` does."""
    experiment, launch, record = parent.experiment, Launch.read(parent.record["launch"]), parent.record
    heading = Heading(record["experiment"], record["variant"], record["title"])
    with ExitStack() as held, staged(launch, mirror) as stage:
        distributed.together(lambda: None if stage.ranks.rank else held.enter_context(taken_up(parent)))
        if stage.ranks.rank:
            return _assist(parent, experiment, record["seeds"], launch, heading, stage.mirror)
        journal = Journal(parent.folder)
        reopen_run(journal, parent)
        return _train_all(parent, journal, experiment, record["seeds"], launch, heading, stage.mirror)


def _train_all(
    parent: Run, journal: Journal, experiment: Experiment, seeds: int, launch: Launch, heading: Heading, mirror: Follows
) -> Seeds:
    """Every seed that has not finished yet, and the summary of all."""
    earlier = _below(parent)
    runs: list[Run] = []
    failed: dict[int, str] = {}
    status = "FAILED"
    if launch.mlflow:
        mirror.follow(parent.folder)
    try:
        for seed in range(experiment.seed, experiment.seed + seeds):
            tell(f"seed {seed} ({seed - experiment.seed + 1} of {seeds})")
            try:
                runs.append(_one(earlier.get(seed), experiment.but({"seed": seed}), launch, heading, parent, mirror))
            except (UserError, Unfinished):
                raise
            except Exception as error:
                failed[seed] = f"{type(error).__name__}: {error}"
                tell(f"seed {seed} failed: {failed[seed]}")
        status = "FAILED" if failed else "FINISHED"
    except (Interrupted, Unfinished) as stopped:
        status = "KILLED"
        stopped.run = parent.id  # what has to be resumed is all of the seeds
        raise
    finally:
        try:
            if status != "KILLED":
                below = _below(parent)
                came = {seed: below[seed] for seed in failed if seed in below}
                fold(journal, f"{heading.experiment} {heading.title}", seeds, runs, failed, came)
        finally:
            write_summary(parent, status)
            journal.close(status)
    return Seeds(parent, tuple(runs), failed)


def _below(parent: Run) -> dict[int, Run]:
    """Seed -> its latest run."""
    found = [run for run in Run.of_experiment(parent.record["experiment"]) if run.record.get("parent") == parent.id]
    return {run.record["declaration"]["seed"]: run for run in reversed(found)}


def _one(
    earlier: Run | None, experiment: Experiment, launch: Launch, heading: Heading, parent: Run, mirror: Follows
) -> Run:
    """The run of one seed: done already, gone on with, or trained."""
    run, status = distributed.from_first((earlier, earlier.status if earlier else "FAILED"))
    if run and status == "FINISHED":
        return run
    if run and status != "FAILED":
        return resume(run, mirror)
    return train(experiment, launch, replace(heading, parent=parent.id), mirror)


def _assist(
    parent: Run, experiment: Experiment, seeds: int, launch: Launch, heading: Heading, mirror: Follows
) -> Seeds:
    """What every process but the first does."""
    for seed in range(experiment.seed, experiment.seed + seeds):
        with suppress(NonFinite):  # every process meets it at the same step, and goes on to the next seed
            _one(None, experiment.but({"seed": seed}), launch, heading, parent, mirror)
    return Seeds(parent, (), {})
