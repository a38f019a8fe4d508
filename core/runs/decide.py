"""Training seeds of several settings until it is decided which of them are better than another one.

The next seed goes to the pair that is decided with the fewest further runs, if its mean and deviation stay as they
are. A seed that a setting has on record already is used, and not trained again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from core.common import paths
from core.common.errors import Interrupted, Unfinished, UserError
from core.common.files import make_folder
from core.common.terminal import tell
from core.common.text import did_you_mean
from core.compare import looks
from core.compare.sequential import FIRST, deciding_look, paired, seeds_to_go
from core.launch import Launch
from core.metrics.names import step_between
from core.record.ids import begun
from core.record.journal import Journal
from core.record.lock import is_free, locked
from core.record.run import intact, parent_of
from core.record.summary import read_summary, write_summary
from core.runs.decision import Plan, Setting
from core.runs.recorder import RunSpec, open_journal, reopen_run, write_record
from core.runs.resume import hold, resume
from core.runs.seed_summary import log_summary
from core.runs.train import begin, train
from core.runs.trained import Run, declares
from core.runs.verdict import Pair
from core.tracking.api import Follows
from core.training.assemble import prepare
from core.training.runtime import Runtime, open_runtime
from core.training.smoke import declared


@dataclass(frozen=True)
class Member:
    """A setting of a decision, with its seeds. first: id of its first run on record, also of other seeds."""

    setting: Setting
    first: str | None = None
    runs: dict[int, Run] = field(default_factory=dict)
    values: dict[int, float] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """Result of a decision. pairs: one for each setting, in the order of the plan.  members: all settings with their
    runs, the one that they are compared with last.  trained: number of runs that were trained by this call."""

    plan: Plan
    pairs: tuple[Pair, ...]
    members: tuple[Member, ...]
    trained: int

    def as_object(self) -> dict[str, Any]:
        """The decision as JSON, with unrounded numbers."""
        plan = self.plan
        return {
            "decision": plan.id,
            "metric": plan.metric,
            "least": plan.rule.least,
            "budget": plan.rule.budget,
            "boundary": plan.rule.boundary,
            "seed": plan.seed,
            "trained": self.trained,
            "pairs": [pair.as_object() for pair in self.pairs],
            "runs": {one.setting.label: [run.id for _, run in sorted(one.runs.items())] for one in self.members},
            "failed": {one.setting.label: sorted(one.failed) for one in self.members if one.failed},
            "sentences": [pair.sentence(plan.rule.least) for pair in self.pairs],
        }


def decide(plan: Plan, launch: Launch | None = None, mirror: Follows | None = None) -> Decision:
    """Train seeds until every pair of a plan is decided or at its budget, and return what is known then.

    A seed whose run fails is left out of its pairs for good, and the next one is trained; if the first three of a
    setting fail, the last error is raised. Raises as `train` does. Called again after an interruption, it continues.
    """
    with open_runtime(launch or Launch(), mirror) as runtime, _held(plan):
        if runtime.ranks.ranks > 1:
            raise UserError(["a decision trains in one process; leave out torchrun"])
        return _Procedure(plan, launch or Launch(), runtime).run()


@contextmanager
def _held(plan: Plan) -> Iterator[None]:
    """Hold the lock of a decision."""
    make_folder(plan.folder)
    with locked(plan.folder):
        yield


class _Procedure:
    """The loop over seeds. parents: label -> the open parent of the seeds that are trained."""

    def __init__(self, plan: Plan, launch: Launch, runtime: Runtime):
        self.plan, self.launch, self.runtime = plan, launch, runtime
        self.members = [self._known(one) for one in (*plan.settings, plan.against)]
        self.parents: dict[str, tuple[Run, Journal]] = {}
        self.trained = 0

    def run(self) -> Decision:
        """Train until nothing is open."""
        self._refuse_other_data()
        status = "KILLED"
        with ExitStack() as held:
            try:
                while (pair := self._next()) is not None:
                    self._advance(pair, held)
                status = "FINISHED"
            except (Interrupted, Unfinished):
                raise
            except BaseException:
                status = "FAILED"
                raise
            finally:
                self._close(status)
        pairs = [self._pair(one) for one in self.members[:-1]]
        return Decision(self.plan, tuple(pairs), tuple(self.members), self.trained)

    def _known(self, setting: Setting) -> Member:
        """A setting with its finished runs on record, and the seeds that have failed in this decision."""
        own = [run for run in intact(Run.of_experiment(setting.info.experiment)) if _is_of(run, setting)]
        found = [run for run in own if run.status == "FINISHED"]
        member = Member(setting, min((run.id for run in found), key=begun, default=None))
        for run in own:
            if run.status == "FAILED" and (above := parent_of(run)) and above.record.get("decision") == self.plan.id:
                member.failed[_seed(run)] = run.tags.get("error", "failed")
        for run in found:  # the latest first
            if _seed(run) in self.plan.seeds and _seed(run) not in (*member.runs, *member.failed):
                self._take(member, _seed(run), run)
        return member

    def _take(self, member: Member, seed: int, run: Run) -> None:
        """Use a finished run. Raises UserError if it has not measured the metric."""
        metrics = (read_summary(run) or {}).get("metrics", {})
        if self.plan.metric not in metrics:
            known = sorted(name for name in metrics if name.startswith("val/"))
            hint = did_you_mean(self.plan.metric, known) or f"; choose one of {', '.join(known)}"
            raise UserError([f"--metric {self.plan.metric}: {run.id} has not measured it{hint}"])
        member.runs[seed] = run
        if math.isfinite(metrics[self.plan.metric]):
            member.values[seed] = metrics[self.plan.metric]
        else:
            member.failed[seed] = f"{self.plan.metric} is not finite"

    def _refuse_other_data(self) -> None:
        digests: dict[str, Run] = {}
        for run in (run for member in self.members for run in member.runs.values()):
            digests.setdefault(run.record["data"]["digest"], run)
        if len(digests) > 1:
            named = ", ".join(run.id for run in digests.values())
            advice = "use other seeds (--seed), so that runs on the data of today are trained"
            raise UserError([f"runs of these settings used different data ({named}); {advice}"])

    def _pair(self, member: Member) -> Pair:
        plan, base = self.plan, self.members[-1]
        found = deciding_look(*self._in_order(member), plan.rule, self._resolution)
        if found and not found.verdict and not self._seeds_left(member):
            found = replace(found, verdict="undecided")  # seeds that failed are part of the budget
        return Pair(member.setting.label, base.setting.label, found, plan.better, plan.metric)

    def _in_order(self, member: Member) -> tuple[dict[int, float], dict[int, float]]:
        """The values of a pair. Looks are in the order of the seeds: results behind a seed that is missing wait."""
        end = min(self._seeds_left(member), default=self.plan.seeds.stop)
        first, second = ({n: v for n, v in one.values.items() if n < end} for one in (member, self.members[-1]))
        return first, second

    @property
    def _resolution(self) -> float:
        """The step between values of the metric."""
        run = next((run for member in self.members for run in member.runs.values()), None)
        return step_between(self.plan.metric, run.record["data"].get("val") or 0) if run else 0.0

    def _seeds_left(self, member: Member) -> list[int]:
        """The seeds that a pair does not have yet, in order."""
        base = self.members[-1]
        gone = (set(member.values) & set(base.values)) | set(member.failed) | set(base.failed)
        return [seed for seed in self.plan.seeds if seed not in gone]

    def _next(self) -> Member | None:
        """The setting of the pair that gets the next seed; None if nothing is open."""
        open_ones = [one for one in self.members[:-1] if self._pair(one).verdict == "open" and self._seeds_left(one)]
        return min(open_ones, key=self._runs_to_go, default=None)

    def _runs_to_go(self, member: Member) -> float:
        """The number of runs with which a pair is decided, if its mean and deviation stay as they are."""
        found = self._pair(member).look
        if found is None:  # the first looks come first, in the order of the settings
            return -1.0
        needed = seeds_to_go(found, self.plan.rule)
        if needed is None:
            return math.inf
        seeds = self._seeds_left(member)[:needed]
        return float(sum(seed not in one.values for seed in seeds for one in (member, self.members[-1])))

    def _advance(self, member: Member, held: ExitStack) -> None:
        """Train what a pair lacks of its next seed, and say what is decided then."""
        seed = self._seeds_left(member)[0]
        for one in (self.members[-1], member):
            if seed not in one.values and not one.failed.get(seed):
                self._train(one, seed, held)
            if seed in one.failed:
                return
        pair, others = self._pair(member), [self._pair(one) for one in self.members[:-1]]
        self._record_look(member)
        decided = sum(each.verdict != "open" for each in others)
        tell(f"{pair.sentence(self.plan.rule.least)}; {decided} of {len(others)} pairs decided")

    def _train(self, member: Member, seed: int, held: ExitStack) -> None:
        parent, _ = self._parent(member.setting, held)
        tell(f"{member.setting.label}: seed {seed}")
        info = replace(member.setting.info, parent=parent.id)
        try:
            begun_before = self._interrupted(member.setting, parent, seed)
            if begun_before:
                run = resume(begun_before, self.runtime.mirror)
            else:
                run = train(member.setting.at(seed), self.launch, info, self.runtime.mirror)
        except (UserError, Unfinished):
            raise
        except Exception as error:
            member.failed[seed] = f"{type(error).__name__}: {error}"
            tell(f"{member.setting.label}: seed {seed} failed: {member.failed[seed]}")
            if not member.values and len(member.failed) >= FIRST:
                raise
            return
        self.trained += 1
        self._take(member, seed, run)
        self._refuse_other_data()

    def _interrupted(self, setting: Setting, parent: Run, seed: int) -> Run | None:
        """The run of this seed that an earlier start of this decision has begun."""
        for run in parent.children():
            if declares(run.record, setting.at(seed)) and run.status not in ("FINISHED", "FAILED"):
                return run if is_free(run.folder) else None
        return None

    def _parent(self, setting: Setting, held: ExitStack) -> tuple[Run, Journal]:
        """The parent of the seeds of a setting: the one that an earlier start has opened, or a new one."""
        if setting.label not in self.parents:
            earlier = self._earlier_parent(setting)
            if earlier:
                held.enter_context(hold(earlier))
                journal = Journal(earlier.folder)
                reopen_run(journal)
                self.parents[setting.label] = earlier, journal
            else:
                self.parents[setting.label] = self._new_parent(setting, held)
            self.runtime.mirror.follow(self.parents[setting.label][0].folder)
        return self.parents[setting.label]

    def _earlier_parent(self, setting: Setting) -> Run | None:
        first = setting.at(self.plan.seed)
        for run in intact(Run.of_experiment(setting.info.experiment)):
            own = run.record.get("decision") == self.plan.id and run.status != "FINISHED"
            if own and declares(run.record, first):
                return run
        return None

    def _new_parent(self, setting: Setting, held: ExitStack) -> tuple[Run, Journal]:
        spec = RunSpec(setting.at(self.plan.seed), self.launch, setting.info)
        # errors of the user are raised before anything is recorded
        prepare(declared(spec.experiment, self.launch, self.runtime.ranks), self.launch, self.runtime.ranks)
        parent, journal = begin(spec.info, self.runtime.ranks)
        assert journal is not None
        held.enter_context(locked(parent.folder))
        budget = self.plan.rule.budget
        tags = {"seeds": f"until decided, at most {budget}", "smoke": str(self.launch.smoke).lower()}
        facts = open_journal(journal, spec, f"{setting.info.title} seeds until decided", tags)
        more = {"seeds": budget, "decision": self.plan.id, "title": setting.info.title}
        write_record(journal, spec, facts, **more)
        return parent, journal

    def _close(self, status: str) -> None:
        """Write the summary of the parents that were opened."""
        for member in self.members:
            if member.setting.label not in self.parents:
                continue
            parent, journal = self.parents[member.setting.label]
            try:
                if status == "FINISHED":
                    self._summarize(member, journal)
            finally:
                write_summary(parent, status)
                journal.close(status)

    def _summarize(self, member: Member, journal: Journal) -> None:
        runs = [run for _, run in sorted(member.runs.items())]
        title = f"{member.setting.info.experiment} {member.setting.info.title}"
        log_summary(journal, title, "seed", len(runs) + len(member.failed), runs, member.failed, {})

    def _record_look(self, member: Member) -> None:
        """Count the look for `labbook compare`, too, in which all looks at two settings share the 5 %."""
        values = self._in_order(member)
        common = sorted(set(values[0]) & set(values[1]))
        if len(common) < FIRST:
            return
        both = (member, self.members[-1])
        first, other = (one.first or min((run.id for run in one.runs.values()), key=begun) for one in both)
        found = looks.turned(paired(*values, common, self._resolution), first, other)
        try:
            known = looks.read(paths.looks())
            looks.write(paths.looks(), [(looks.pair_of(self.plan.metric, first, other), found)], known)
        except OSError as error:
            tell(f"warning: {paths.looks()}: {error.strerror}; compare will not know of this look")


def _is_of(run: Run, setting: Setting) -> bool:
    """Whether a run on record is a repetition of a setting: trained from the beginning, and no trial of a search."""
    record = run.record
    apart = any(record.get(name) is not None for name in ("trial", "continued", "seeds", "folds", "study"))
    seed = (record.get("declaration") or {}).get("seed")
    return not apart and isinstance(seed, int) and declares(record, setting.at(seed))


def _seed(run: Run) -> int:
    seed: int = run.record["declaration"]["seed"]
    return seed
