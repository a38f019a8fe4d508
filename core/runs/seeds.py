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
from core.runs.recorder import Heading, RunSpec, keep_record, open_journal, reopen_run
from core.runs.resume import resume, taken_up
from core.runs.seed_summary import fold
from core.runs.train import begin, train
from core.runs.trained import Run
from core.tracking.api import Follows
from core.training import distributed
from core.training.assemble import prepare
from core.training.runtime import open_runtime
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
    spec = RunSpec.of(experiment, launch, heading)
    with open_runtime(spec.launch, mirror) as runtime:
        experiment.but({"seed": experiment.seed + seeds - 1})
        # what is refused is refused before there is a parent
        prepare(declared(experiment, spec.launch, runtime.ranks), spec.launch, runtime.ranks)
        parent, journal = begin(spec.heading, runtime.ranks)
        group = _Group(parent, spec, seeds, runtime.mirror)
        if journal is None:
            return group.assist()
        title = spec.heading.title
        with locked(parent.folder):
            tags = {"seeds": str(seeds), "smoke": str(spec.launch.smoke).lower()}
            facts = open_journal(journal, spec, f"{title} {seeds} seeds", tags)
            keep_record(journal, spec, facts, seeds=seeds, title=title)
            return group.train(journal)


def resume_seeds(parent: Run, mirror: Follows | None = None) -> Seeds:
    """Go on with several seeds: those that have finished count, an interrupted one is resumed, the rest are trained.
    Raises as `resume` does."""
    experiment, launch, record = parent.experiment, Launch.read(parent.record["launch"]), parent.record
    spec = RunSpec(experiment, launch, Heading(record["experiment"], record["variant"], record["title"]))
    with ExitStack() as held, open_runtime(launch, mirror) as runtime:
        distributed.together(lambda: None if runtime.ranks.rank else held.enter_context(taken_up(parent)))
        group = _Group(parent, spec, record["seeds"], runtime.mirror)
        if runtime.ranks.rank:
            return group.assist()
        journal = Journal(parent.folder)
        reopen_run(journal)
        return group.train(journal)


@dataclass(frozen=True)
class _Group:
    """The seeds of one parent. spec: of the first.  count: how many there are to be."""

    parent: Run
    spec: RunSpec
    count: int
    mirror: Follows

    @property
    def seeds(self) -> range:
        first = self.spec.experiment.seed
        return range(first, first + self.count)

    def train(self, journal: Journal) -> Seeds:
        """Every seed that has not finished yet, and the summary of all."""
        earlier = self._below()
        runs: list[Run] = []
        failed: dict[int, str] = {}
        status = "FAILED"
        if self.spec.launch.mlflow:
            self.mirror.follow(self.parent.folder)
        try:
            for place, seed in enumerate(self.seeds, 1):
                tell(f"seed {seed} ({place} of {self.count})")
                try:
                    runs.append(self._one(seed, earlier.get(seed)))
                except (UserError, Unfinished):
                    raise
                except Exception as error:
                    failed[seed] = f"{type(error).__name__}: {error}"
                    tell(f"seed {seed} failed: {failed[seed]}")
            status = "FAILED" if failed else "FINISHED"
        except (Interrupted, Unfinished) as stopped:
            status = "KILLED"
            stopped.run = self.parent.id  # what has to be resumed is all of the seeds
            raise
        finally:
            try:
                if status != "KILLED":
                    below, heading = self._below(), self.spec.heading
                    came = {seed: below[seed] for seed in failed if seed in below}
                    fold(journal, f"{heading.experiment} {heading.title}", self.count, runs, failed, came)
            finally:
                write_summary(self.parent, status)
                journal.close(status)
        return Seeds(self.parent, tuple(runs), failed)

    def assist(self) -> Seeds:
        """What every process but the first does."""
        for seed in self.seeds:
            with suppress(NonFinite):  # every process meets it at the same step, and goes on to the next seed
                self._one(seed)
        return Seeds(self.parent, (), {})

    def _one(self, seed: int, earlier: Run | None = None) -> Run:
        """The run of one seed: done already, gone on with, or trained."""
        run, status = distributed.from_first((earlier, earlier.status if earlier else "FAILED"))
        if run and status == "FINISHED":
            return run
        if run and status != "FAILED":
            return resume(run, self.mirror)
        spec = self.spec
        heading = replace(spec.heading, parent=self.parent.id)
        return train(spec.experiment.but({"seed": seed}), spec.launch, heading, self.mirror)

    def _below(self) -> dict[int, Run]:
        """Seed -> its latest run."""
        return {run.record["declaration"]["seed"]: run for run in reversed(list(self.parent.children()))}
