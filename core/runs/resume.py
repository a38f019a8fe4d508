"""Resuming an interrupted run from its last checkpoint, and continuing a finished one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from safetensors import SafetensorError
from safetensors.torch import load_file

from core.common import paths
from core.common.errors import Damaged, UserError
from core.common.terminal import tell
from core.experiment import Experiment
from core.launch import Launch
from core.loading.folds import Folds
from core.models import load_weights
from core.record.journal import Journal, damage, is_deleted
from core.record.lock import is_free, locked
from core.record.run import COMBINED, WEIGHTS, in_study, intact, parent_of, refuse_combined
from core.runs.recorder import reopen_run
from core.runs.trained import Run, declares, load, own_launch
from core.runs.trainer import Trainer
from core.tracking.api import Follows
from core.training import distributed
from core.training.assemble import Assembly, belongs, prepare
from core.training.checkpoint import CHECKPOINTS, Checkpoint, generations, latest, read
from core.training.compiled import NO
from core.training.runtime import Runtime, open_runtime
from core.training.step import is_over


def restore(run: Run, journal: Journal | None, parts: Assembly) -> None:
    """Load the latest complete checkpoint, and warn if the environment has changed such that results are no longer
    bit-exact. journal: of rank 0, which reads the checkpoint for all processes."""
    lost = distributed.from_first(lost_weights(run) if journal else "")
    found = distributed.from_first(_usable(run, parts, lost) if journal else None)
    if found is None:
        tell(f"{run.id} has no usable checkpoint; training starts from scratch")
        if earlier := run.record.get("continued"):
            take_over(load(earlier), parts)
        return
    parts.state.parallel.restore(parts.state, found)
    tell(f"{run.id} resumes after step {found.step}")
    if lost and found.state["history"]:
        weights = parts.state.parallel.serialized(parts.state.evaluated)
        if journal:
            tell(f"{lost}; restored from the checkpoint")
            journal.replace(WEIGHTS, weights)
    _report_skipped(found.step, parts)
    then = {"compiled": NO} | found.belongs  # steps were not compiled before there was --compile
    changed = [name for name, value in belongs(parts).items() if then.get(name) != value]
    if changed and journal:
        changes = ", ".join(f"{name}: {then.get(name)} then, {belongs(parts)[name]} now" for name in changed)
        tell(f"this run is no longer bit-exact: {changes}")
        journal.write("tags", values={"resumed_elsewhere": changes})


def lost_weights(run: Run) -> str:
    """Returns what is wrong with the weights of the best epoch so far; empty if nothing is, or if none are needed."""
    if not run.history.get("val/loss") or is_deleted(run.folder, WEIGHTS):
        return ""
    try:
        load_file(run.artifact(WEIGHTS))
    except UserError as wrong:
        return damage(run.folder, WEIGHTS) or str(wrong)
    except (OSError, SafetensorError) as error:  # weights of an older version have no digest
        return f"{run.folder / 'artifacts' / WEIGHTS}: damaged: {error}"
    return ""


def _usable(run: Run, parts: Assembly, lost: str) -> Checkpoint | None:
    """The latest intact checkpoint from which training ends with the right weights. lost: see `lost_weights`.

    If the weights of the best epoch are lost, a checkpoint has to be of the end of that epoch, or of the first epoch.
    """
    refused = False
    for path in generations(run.folder / CHECKPOINTS):
        try:
            found = read(path)
        except Damaged as error:
            tell(f"{error}; using the previous checkpoint")
            continue
        history = found.state["history"]
        at_end = found.step == len(history) * parts.context.steps_per_epoch
        if not lost or not history or (at_end and parts.experiment.best_epoch(history) == len(history) - 1):
            return found
        refused = True
    if refused:
        tell(f"{lost}; no checkpoint holds these weights, so the epochs are trained again")
    return None


def _report_skipped(step: int, parts: Assembly) -> None:
    """For data sets read in the order of their files, print how many images of the epoch are skipped."""
    plan = parts.train.plan
    skipped = step % len(plan) * plan.size
    if skipped and parts.images.order(plan.size, plan.ranks):
        tell(f"skipping {skipped:,} images of epoch {step // len(plan) + 1} that were used before the interruption")


def take_over(earlier: Run, parts: Assembly) -> None:
    """Start from the final state of a finished run: its weights, optimizer state and history.

    Learning rates and all other declared values are those of the new run. Raises UserError if the state does not fit.
    """
    state, setup = parts.state, parts.setup
    if state.parallel.divided:
        raise UserError([f"--continue {earlier.id}: it cannot be combined with --parallel {parts.launch.parallel}"])
    if not parts.splits.same_as(earlier.record["data"]):
        raise UserError(
            [f"--continue {earlier.id}: it was trained on different data ({earlier.record['data']['source']})"]
        )
    found, wrong = latest(earlier.folder / CHECKPOINTS) if earlier.status == "FINISHED" else (None, [])
    if found is None or wrong:
        advice = "use resume for an unfinished run" if earlier.status != "FINISHED" else "its checkpoint is missing"
        raise UserError([f"--continue {earlier.id}: it is {earlier.status}; {'; '.join(wrong) or advice}"])
    if found.path.is_dir():
        advice = f"give its weights instead: --model.weights {earlier.id}"
        raise UserError([f"--continue {earlier.id}: its last state is divided among processes; {advice}"])
    declared = [{name: value for name, value in g.items() if name != "params"} for g in state.optimizer.param_groups]
    unfit = f"--continue {earlier.id}: its state does not fit the present declaration"
    load_weights(state.trained, found.state["trained"], unfit)  # first, because its errors name the weights
    try:
        state.restore(found.state)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UserError([f"{unfit}: {reason}"]) from None
    for group, own in zip(state.optimizer.param_groups, declared, strict=True):
        group.update(own)
    if lacking := {name for name in parts.experiment.monitored.values() if name not in state.history[0]}:
        advice = "monitor a metric that it measured"
        raise UserError([f"--continue {earlier.id}: its epochs have no {', '.join(sorted(lacking))}; {advice}"])
    state.split = 1
    done = len(state.history)
    state.step = done * parts.context.steps_per_epoch
    if done >= setup.epochs:
        raise UserError(
            [f"--continue {earlier.id}: it has trained for {done} epochs; set --epochs to more than {done}"]
        )
    if is_over(setup, state.history):
        advice = (
            "early stopping or max_minutes ends it at once; use --stopping none, more patience or more --max_minutes"
        )
        raise UserError([f"--continue {earlier.id}: {advice}"])


def resume(run: Run, mirror: Follows | None = None) -> Run:
    """Resume an interrupted run from its last checkpoint, or from scratch without one.

    The final weights and metrics equal those of an uninterrupted run. Raises as `train` does, and UserError for a run
    that has finished, that another process is training, or whose data have changed.
    """
    _ = run.experiment  # raises for an imported run, which has no launch options to read
    refuse_combined(run)
    with open_runtime(Launch.read(run.record["launch"]), mirror) as runtime, reopened(run, runtime) as trainer:
        trainer.to_the_end()
    return run


@contextmanager
def reopened(run: Run, runtime: Runtime) -> Iterator[Trainer]:
    """Reopen an unfinished run with its last state; its end is recorded at exit. Raises as `resume` does."""
    experiment, launch = run.experiment, own_launch(run.record)
    with ExitStack() as held:
        first = runtime.ranks.rank == 0
        distributed.together(lambda: held.enter_context(hold(run)) if first else None)
        parts = prepare(experiment, launch, runtime.ranks, run)
        if not parts.splits.same_as(run.record["data"]):
            raise UserError([f"{run.id}: the data have changed since it started ({parts.splits.source})"])
        refuse_other_weights(run)
        journal = Journal(run.folder) if first else None
        trainer = Trainer(run, journal, parts, runtime)
        with trainer.on_record():
            if journal:
                reopen_run(journal)
            restore(run, journal, parts)
            yield trainer


def refuse_other_weights(run: Run) -> None:
    """Raise UserError if the pretrained weights that a run started from have changed."""
    pairs = [(run.record.get("weights"), run.experiment.model.origin())]
    pairs += [(run.record.get("weights_of_method", {}).get(n), o) for n, o in run.experiment.pretrained.items()]
    if wrong := [now.path for then, now in pairs if then and now and now.sha256 != then["sha256"]]:
        raise UserError(
            f"{run.id}: the weights in {path} have changed since it started; restore the original file"
            for path in wrong
        )


def interrupted(experiment: str) -> Run:
    """Returns the latest interrupted run of this experiment that no process is training; for several seeds, their
    parent run. Raises UserError if none is found."""
    trained = ""
    for run in intact(Run.of_experiment(experiment)):
        if in_study(run) or run.record.get(COMBINED) or run.status in ("FINISHED", "FAILED"):
            continue
        if is_free(run.folder):
            parent = parent_of(run) or run
            return parent if parent.status not in ("FINISHED", "FAILED") and is_free(parent.folder) else run
        trained = trained or f"; another process is training {run.id}"
    raise UserError([f"no interrupted run of {experiment} in {paths.runs()}{trained}"])


def earlier_run(
    experiment: Experiment,
    name: str,
    invocation: str | None,
    seeds: int = 1,
    folds: Folds | None = None,
    any_batch_size: bool = False,
) -> Run | None:
    """Returns the latest run of this declaration from an earlier start of the same job, or None; for several seeds or
    folds, their parent run.

    invocation: name of the job, or None without one.  any_batch_size: the earlier start found its own, by trial.
    """
    asked = (invocation, seeds, str(folds or ""))
    for run in intact(Run.of_experiment(name)) if invocation else ():
        record = run.record
        same = (record["facts"].get("invocation"), record.get("seeds", 1), record.get("folds", "")) == asked
        own = {"batch_size": record["declaration"]["batch_size"]} if same and any_batch_size else {}
        if same and declares(record, experiment.but(own)) and is_free(run.folder):
            return run
    return None


@contextmanager
def hold(run: Run) -> Iterator[None]:
    """Hold the lock of an unfinished run. Raises UserError if it has finished or another process holds the lock."""
    if run.status == "FINISHED":
        raise UserError([f"{run.id} is FINISHED and cannot be resumed; use --continue {run.id} to train it for longer"])
    with locked(run.folder):
        yield
