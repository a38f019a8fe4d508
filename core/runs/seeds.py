"""Training one declaration with several seeds: one run per seed under a parent run that summarizes them."""

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
from core.runs.recorder import RunInfo, RunSpec, open_journal, reopen_run, write_record
from core.runs.resume import hold, resume
from core.runs.seed_summary import log_summary
from core.runs.train import begin, train
from core.runs.trained import Run
from core.tracking.api import Follows
from core.training import distributed
from core.training.assemble import prepare
from core.training.runtime import open_runtime
from core.training.smoke import declared


@dataclass(frozen=True)
class Seeds:
    """Result of training several seeds.

    parent: the run that holds the summary.  runs: finished runs.  failed: seed -> error of the failed runs.
    """

    parent: Run
    runs: tuple[Run, ...]
    failed: dict[int, str]


def train_seeds(
    experiment: Experiment,
    seeds: int,
    launch: Launch | None = None,
    info: RunInfo | str = "notebook",
    mirror: Follows | None = None,
) -> Seeds:
    """Train `seeds` runs with consecutive seeds, starting at the seed of the declaration.

    If one run fails, its error is recorded and the remaining seeds are still trained. Raises as `train` does for
    user errors, signals and failures of the machine.
    """
    spec = RunSpec.of(experiment, launch, info)
    with open_runtime(spec.launch, mirror) as runtime:
        experiment.but({"seed": experiment.seed + seeds - 1})
        # user errors are raised before the parent run is created
        prepare(declared(experiment, spec.launch, runtime.ranks), spec.launch, runtime.ranks)
        parent, journal = begin(spec.info, runtime.ranks)
        group = _Group(parent, spec, seeds, runtime.mirror)
        if journal is None:
            return group.assist()
        title = spec.info.title
        with locked(parent.folder):
            tags = {"seeds": str(seeds), "smoke": str(spec.launch.smoke).lower()}
            facts = open_journal(journal, spec, f"{title} {seeds} seeds", tags)
            write_record(journal, spec, facts, seeds=seeds, title=title)
            return group.train(journal)


def resume_seeds(parent: Run, mirror: Follows | None = None) -> Seeds:
    """Resume a group of seeds: finished runs are kept, an interrupted one is resumed, the rest are trained. Raises as
    `resume` does."""
    experiment, launch, record = parent.experiment, Launch.read(parent.record["launch"]), parent.record
    spec = RunSpec(experiment, launch, RunInfo(record["experiment"], record["variant"], record["title"]))
    with ExitStack() as held, open_runtime(launch, mirror) as runtime:
        distributed.together(lambda: None if runtime.ranks.rank else held.enter_context(hold(parent)))
        group = _Group(parent, spec, record["seeds"], runtime.mirror)
        if runtime.ranks.rank:
            return group.assist()
        journal = Journal(parent.folder)
        reopen_run(journal)
        return group.train(journal)


@dataclass(frozen=True)
class _Group:
    """The seeds of one parent run. spec: of the first seed.  count: number of seeds."""

    parent: Run
    spec: RunSpec
    count: int
    mirror: Follows

    @property
    def seeds(self) -> range:
        first = self.spec.experiment.seed
        return range(first, first + self.count)

    def train(self, journal: Journal) -> Seeds:
        """Train every seed that has not finished, then write the summary of all."""
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
        except (Interrupted, Unfinished) as error:
            status = "KILLED"
            error.run = self.parent.id  # the user resumes the parent, not the run of one seed
            raise
        finally:
            try:
                if status != "KILLED":
                    below, info = self._below(), self.spec.info
                    stopped = {seed: below[seed] for seed in failed if seed in below}
                    log_summary(journal, f"{info.experiment} {info.title}", self.count, runs, failed, stopped)
            finally:
                write_summary(self.parent, status)
                journal.close(status)
        return Seeds(self.parent, tuple(runs), failed)

    def assist(self) -> Seeds:
        """Train every seed in a process of rank 1 or higher, which records nothing."""
        for seed in self.seeds:
            with suppress(NonFinite):  # raised in every process at the same step; all continue with the next seed
                self._one(seed)
        return Seeds(self.parent, (), {})

    def _one(self, seed: int, earlier: Run | None = None) -> Run:
        """The run of one seed: already finished, resumed, or trained."""
        run, status = distributed.from_first((earlier, earlier.status if earlier else "FAILED"))
        if run and status == "FINISHED":
            return run
        if run and status != "FAILED":
            return resume(run, self.mirror)
        spec = self.spec
        info = replace(spec.info, parent=self.parent.id)
        return train(spec.experiment.but({"seed": seed}), spec.launch, info, self.mirror)

    def _below(self) -> dict[int, Run]:
        """Latest run of each seed under the parent: {seed: run}."""
        below = ((run, run.record.get("declaration")) for run in reversed(list(self.parent.children())))
        return {declaration["seed"]: run for run, declaration in below if declaration and "seed" in declaration}
