"""An interrupted run, taken up from its last checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from core.common import paths
from core.common.errors import UserError
from core.common.terminal import tell
from core.experiment import Experiment
from core.launch import Launch
from core.models import load_weights
from core.record.journal import Journal
from core.record.lock import is_free, locked
from core.record.run import in_study
from core.runs.recorder import reopen_run
from core.runs.trained import Run, declares, load
from core.runs.trainer import Trainer
from core.tracking.api import Follows
from core.training import distributed
from core.training.assemble import Assembly, belongs, prepare
from core.training.checkpoint import CHECKPOINTS, latest
from core.training.runtime import Runtime, open_runtime
from core.training.step import is_over


def restore(run: Run, journal: Journal | None, parts: Assembly) -> None:
    """Take up the last whole checkpoint, and say aloud what the bits may not survive. journal: of the first process,
    which reads for all."""
    found, wrong = latest(run.folder / CHECKPOINTS) if journal else (None, [])
    for line in wrong:
        tell(f"{line}; the checkpoint before is used")
    found = distributed.from_first(found)
    if found is None:
        tell(f"{run.id} has no checkpoint: it starts anew")
        if earlier := run.record.get("continued"):
            take_over(load(earlier), parts)
        return
    parts.state.restore(found.state)
    tell(f"{run.id} goes on after step {found.step}")
    _tell_of_skipping(found.step, parts)
    changed = [name for name, value in belongs(parts).items() if found.belongs.get(name) != value]
    if changed and journal:
        told = ", ".join(f"{name}: {found.belongs.get(name)} then, {belongs(parts)[name]} now" for name in changed)
        tell(f"not bit-exact any more: {told}")
        journal.write("tags", values={"resumed_elsewhere": told})


def _tell_of_skipping(step: int, parts: Assembly) -> None:
    """Of images that are read in the order of their files, say what becomes of those that have come."""
    plan = parts.train.plan
    skipped = step % len(plan) * plan.size
    if skipped and parts.images.order(plan.size, plan.ranks):
        tell(f"{skipped:,} images of epoch {step // len(plan) + 1} have come before: skipped, not read again")


def take_over(earlier: Run, parts: Assembly) -> None:
    """Begin with the state in which another run has finished: its weights, optimizer, history. The learning rates and
    all else that is declared are the new run's own. Raises UserError where that cannot be.
    """
    state, setup = parts.state, parts.setup
    if parts.splits.digest != earlier.record["data"]["digest"]:
        raise UserError([f"--continue {earlier.id}: it was trained on other data ({earlier.record['data']['source']})"])
    found, _ = latest(earlier.folder / CHECKPOINTS) if earlier.status == "FINISHED" else (None, [])
    if found is None:
        advice = "resume goes on with an unfinished run" if earlier.status != "FINISHED" else "its checkpoint is gone"
        raise UserError([f"--continue {earlier.id}: it is {earlier.status}; {advice}"])
    declared = [{name: value for name, value in g.items() if name != "params"} for g in state.optimizer.param_groups]
    unfit = f"--continue {earlier.id}: its state does not fit what is declared now"
    load_weights(state.trained, found.state["trained"], unfit)  # first, for it names the weights
    try:
        state.restore(found.state)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UserError([f"{unfit}: {reason}"]) from None
    for group, own in zip(state.optimizer.param_groups, declared, strict=True):
        group.update(own)
    done = len(state.history)
    state.step = done * parts.context.steps_per_epoch
    if done >= setup.epochs:
        raise UserError([f"--continue {earlier.id}: it has trained {done} epochs; --epochs must be more than that"])
    if is_over(setup, state.history):
        advice = (
            "its early stopping or its time has said stop; use --stopping none, more patience or more --max_minutes"
        )
        raise UserError([f"--continue {earlier.id}: {advice}"])


def resume(run: Run, mirror: Follows | None = None) -> Run:
    """Go on with an interrupted run from its last checkpoint, or from the start where it has none.

    It ends in the same weights and metrics as if it had never stopped. Raises as `train` does; UserError for a run that
    has finished, that another process is at work on, or whose data have changed.
    """
    _ = run.experiment  # an imported run is refused before its launch is read: it has none
    with open_runtime(Launch.read(run.record["launch"]), mirror) as runtime, reopened(run, runtime) as trainer:
        trainer.to_the_end()
    return run


@contextmanager
def reopened(run: Run, runtime: Runtime) -> Iterator[Trainer]:
    """An unfinished run with its last state, ended on record with the body. Raises as `resume` does."""
    experiment, launch = run.experiment, Launch.read(run.record["launch"])
    with ExitStack() as held:
        first = runtime.ranks.rank == 0
        distributed.together(lambda: held.enter_context(taken_up(run)) if first else None)
        parts = prepare(experiment, launch, runtime.ranks)
        if parts.splits.digest != run.record["data"]["digest"]:
            raise UserError([f"{run.id}: the data have changed since it began ({parts.splits.source})"])
        refuse_other_weights(run)
        journal = Journal(run.folder) if first else None
        trainer = Trainer(run, journal, parts, runtime)
        with trainer.on_record():
            if journal:
                reopen_run(journal)
            restore(run, journal, parts)
            yield trainer


def refuse_other_weights(run: Run) -> None:
    """Raises UserError where the pretrained weights that a run began with are no longer what they were."""
    recorded, now = run.record.get("weights"), run.experiment.model.origin()
    if recorded and now and now.sha256 != recorded["sha256"]:
        raise UserError([f"{run.id}: the weights in {now.path} have changed since it began; put back the old file"])


def interrupted(experiment: str) -> Run:
    """The latest run of this experiment that has not ended and that nobody is at work on; of several seeds, the parent
    that holds them. Raises UserError."""
    for run in Run.of_experiment(experiment):
        if in_study(run):
            continue
        if run.status not in ("FINISHED", "FAILED") and is_free(run.folder):
            parent = Run(paths.runs() / above) if (above := run.record.get("parent")) else run
            return parent if parent.status not in ("FINISHED", "FAILED") and is_free(parent.folder) else run
    raise UserError([f"no interrupted run of {experiment} in {paths.runs()}"])


def begun(experiment: Experiment, name: str, invocation: str | None, seeds: int = 1) -> Run | None:
    """The latest run of this declaration that an earlier start of the same job has begun; None if there is none."""
    for run in Run.of_experiment(name) if invocation else ():
        record = run.record
        same = record["facts"].get("invocation") == invocation and record.get("seeds", 1) == seeds
        if same and declares(record, experiment) and is_free(run.folder):
            return run
    return None


@contextmanager
def taken_up(run: Run) -> Iterator[None]:
    """Hold an unfinished run. Raises UserError."""
    if run.status == "FINISHED":
        raise UserError([f"{run.id} is FINISHED: there is nothing to resume; --continue {run.id} trains it for longer"])
    with locked(run.folder):
        yield
