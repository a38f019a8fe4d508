"""Training one declaration several times under a parent run that summarizes them: with several seeds, or on every fold
of a cross-validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from core.common.errors import Interrupted, NonFinite, Unfinished, UserError
from core.common.terminal import tell
from core.experiment import Experiment
from core.launch import Launch
from core.loading.folds import Folds
from core.record.journal import Journal
from core.record.labels import labels
from core.record.lock import locked
from core.record.summary import write_summary
from core.runs.fleet import Opening, train_together
from core.runs.out_of_fold import log_out_of_fold
from core.runs.recorder import RunInfo, RunSpec, open_journal, reopen_run, write_record
from core.runs.resume import hold, reopened, resume
from core.runs.seed_summary import log_summary
from core.runs.train import begin, opened, train
from core.runs.trained import Run
from core.tracking.api import Follows
from core.training import distributed
from core.training.assemble import prepare
from core.training.fleet import advice, refuse_together
from core.training.runtime import Runtime, open_runtime
from core.training.smoke import declared


@dataclass(frozen=True)
class Plan:
    """The runs under a parent: a number of seeds, or folds, each repetition of which has a seed of its own.

    experiment: the declaration that is trained several times.
    """

    experiment: Experiment
    seeds: int = 1
    folds: Folds | None = None

    @property
    def record(self) -> dict[str, Any]:
        """What the record of the parent has of it."""
        return {"folds": str(self.folds)} if self.folds else {"seeds": self.seeds}

    @property
    def what(self) -> str:
        """What tells the runs apart: fold or seed."""
        return "fold" if self.folds else "seed"

    @cached_property
    def members(self) -> Mapping[int, Experiment]:
        """Seed, or number of the fold from 1, -> declaration of this run. Raises UserError for seeds out of range."""
        first = self.experiment.seed
        if not self.folds:
            return {seed: self.experiment.but({"seed": seed}) for seed in range(first, first + self.seeds)}
        each = (self.experiment.but({"fold": fold, "seed": first + fold.repeat - 1}) for fold in self.folds)
        return dict(enumerate(each, 1))

    def number_of(self, declaration: Mapping[str, Any]) -> int | None:
        """The number of the run with this recorded declaration; None if it is not one of these."""
        return self._numbers.get(_apart(declaration))

    @cached_property
    def _numbers(self) -> dict[tuple[Any, ...], int]:
        return {_apart(member.record()): number for number, member in self.members.items()}


def _apart(declaration: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells the declarations of a plan apart."""
    fold = declaration.get("fold") or {}
    return declaration.get("seed"), fold.get("folds"), fold.get("number"), fold.get("repeat")


@dataclass(frozen=True)
class Seeds:
    """Result of training one declaration several times.

    parent: the run that holds the summary.  runs: finished runs.  failed: seed, or number of the fold, -> error of the
    failed runs.
    """

    parent: Run
    runs: tuple[Run, ...]
    failed: dict[int, str] = field(default_factory=dict)


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
    return _train(Plan(experiment, seeds), RunSpec.of(experiment, launch, info), mirror)


def train_folds(
    experiment: Experiment,
    folds: Folds,
    launch: Launch | None = None,
    info: RunInfo | str = "notebook",
    mirror: Follows | None = None,
) -> Seeds:
    """Train a run for each fold, which is its val split, and record the out-of-fold answers under the parent.

    Each repetition has another partition and the next seed. Errors are treated as by `train_seeds`.
    """
    return _train(Plan(experiment, folds=folds), RunSpec.of(experiment, launch, info), mirror)


def _train(plan: Plan, spec: RunSpec, mirror: Follows | None) -> Seeds:
    with open_runtime(spec.launch, mirror) as runtime:
        # user errors are raised before the parent run is created
        _check(plan, spec, runtime)
        parent, journal = begin(spec.info, runtime.ranks)
        group = _Group(parent, spec, plan, runtime)
        if journal is None:
            return group.assist()
        title = spec.info.title
        [(what, count)] = plan.record.items()
        with locked(parent.folder):
            tags = {what: str(count), "smoke": str(spec.launch.smoke).lower()}
            facts = open_journal(journal, spec, f"{title} {count} {what}", tags)
            write_record(journal, spec, facts, **plan.record, title=title)
            return group.train(journal)


def _check(plan: Plan, spec: RunSpec, runtime: Runtime) -> None:
    """Raise UserError for what cannot be trained, or not together; tell if it does not pay."""
    launch, ranks = spec.launch, runtime.ranks
    if plan.folds and launch.together:
        raise UserError(["together: folds have different images; leave it out"])
    if plan.experiment.vary and launch.together:
        raise UserError(["together: with vary, each seed has a val split of its own; leave out one of them"])
    tried = [*plan.members.values()][: 2 if launch.together else 1]
    ready = [prepare(declared(one, launch, ranks), launch, ranks) for one in tried]
    if launch.together:
        refuse_together(ready)
        for line in advice(ready[0]):
            tell(line)


def resume_seeds(parent: Run, mirror: Follows | None = None) -> Seeds:
    """Resume a parent of seeds or folds: finished runs are kept, an interrupted one is resumed, the rest are trained.
    Raises as `resume` does."""
    if "decision" in parent.record:
        again = parent.tags.get("mlflow.source.name", "")
        raise UserError([f"{parent.id}: its seeds belong to a decision; to continue it, type again: {again}"])
    experiment, launch, record = parent.experiment, Launch.read(parent.record["launch"]), parent.record
    given = labels(parent.folder)
    names = record["experiment"], record["variant"], record["title"]
    spec = RunSpec(experiment, launch, RunInfo(*names, name=given.name, tags=given.tags))
    plan = Plan(experiment, record.get("seeds", 1), Folds.read(record["folds"]) if "folds" in record else None)
    with ExitStack() as held, open_runtime(launch, mirror) as runtime:
        distributed.together(lambda: None if runtime.ranks.rank else held.enter_context(hold(parent)))
        group = _Group(parent, spec, plan, runtime)
        if runtime.ranks.rank:
            return group.assist()
        journal = Journal(parent.folder)
        reopen_run(journal)
        return group.train(journal)


@dataclass(frozen=True)
class _Group:
    """The runs of one parent. spec: of the parent."""

    parent: Run
    spec: RunSpec
    plan: Plan
    runtime: Runtime

    def train(self, journal: Journal) -> Seeds:
        """Train every run that has not finished, then write the summary of all."""
        earlier = self._below()
        runs: list[Run] = []
        failed: dict[int, str] = {}
        status, what = "FAILED", self.plan.what
        self.runtime.mirror.follow(self.parent.folder)
        try:
            for number, outcome in (self._together if self.spec.launch.together else self._in_turn)(earlier):
                if isinstance(outcome, Run):
                    runs.append(outcome)
                else:
                    failed[number] = f"{type(outcome).__name__}: {outcome}"
                    tell(f"{what} {number} failed: {failed[number]}")
            if self.plan.folds and not failed:
                log_out_of_fold(journal, runs)
            status = "FAILED" if failed else "FINISHED"
        except (Interrupted, Unfinished) as error:
            status = "KILLED"
            error.run = self.parent.id  # the user resumes the parent, not one of its runs
            raise
        finally:
            try:
                if status != "KILLED":
                    self._summarize(journal, runs, failed)
            finally:
                write_summary(self.parent, status)
                journal.close(status)
        return Seeds(self.parent, tuple(runs), failed)

    def _in_turn(self, earlier: Mapping[int, Run]) -> Iterator[tuple[int, Run | Exception]]:
        """Train one after the other. Yields (number, run or error)."""
        for place, number in enumerate(self.plan.members, 1):
            tell(f"{self.plan.what} {number} ({place} of {len(self.plan.members)})")
            try:
                run = self._one(number, earlier.get(number))
            except (UserError, Unfinished):
                raise
            except Exception as error:
                yield number, error
            else:
                yield number, run

    def _together(self, earlier: Mapping[int, Run]) -> Iterator[tuple[int, Run | Exception]]:
        """Train all at once; see `_in_turn`."""
        finished = {number: run for number, run in earlier.items() if run.status == "FINISHED"}
        rest = {n: self._opening(n, earlier.get(n)) for n in self.plan.members if n not in finished}
        ended = finished | (train_together(rest, self.runtime) if rest else {})
        yield from sorted(ended.items())

    def _opening(self, number: int, earlier: Run | None) -> Opening:
        if earlier and earlier.status != "FAILED":
            return partial(reopened, earlier)
        return partial(opened, self._spec(number))

    def _summarize(self, journal: Journal, runs: list[Run], failed: Mapping[int, str]) -> None:
        below, info, plan = self._below(), self.spec.info, self.plan
        stopped = {number: below[number] for number in failed if number in below}
        title = f"{info.experiment} {info.title}"
        log_summary(journal, title, plan.what, len(plan.members), runs, failed, stopped, plan.folds)

    def assist(self) -> Seeds:
        """Train every run in a process of rank 1 or higher, which records nothing."""
        for number in self.plan.members:
            with suppress(NonFinite):  # raised in every process at the same step; all continue with the next run
                self._one(number)
        return Seeds(self.parent, ())

    def _one(self, number: int, earlier: Run | None = None) -> Run:
        """One of the runs: already finished, resumed, or trained."""
        run, status = distributed.from_first((earlier, earlier.status if earlier else "FAILED"))
        if run and status == "FINISHED":
            return run
        if run and status != "FAILED":
            return resume(run, self.runtime.mirror)
        spec = self._spec(number)
        return train(spec.experiment, spec.launch, spec.info, self.runtime.mirror)

    def _spec(self, number: int) -> RunSpec:
        spec, fold = self.spec, f" fold {number}" if self.plan.folds else ""
        info = spec.info.below(self.parent.id, f"{spec.info.title}{fold}", f"{self.plan.what} {number}")
        return RunSpec(self.plan.members[number], spec.launch, info)

    def _below(self) -> dict[int, Run]:
        """Latest run of each number under the parent: {number: run}."""
        below = ((run, run.record.get("declaration") or {}) for run in reversed(list(self.parent.children())))
        found = ((self.plan.number_of(declaration), run) for run, declaration in below)
        return {number: run for number, run in found if number is not None}
