"""Where a run takes up what an earlier one, or an earlier part of itself, has left."""

from __future__ import annotations

from core import distributed
from core.build import Assembly
from core.checkpoint import CHECKPOINTS, belongs, latest
from core.images import Splits
from core.journal import Journal
from core.models import load_weights
from core.part import Mistakes
from core.record import Run, load
from core.step import is_over
from core.terminal import tell


def restore(run: Run, journal: Journal | None, splits: Splits, parts: Assembly) -> None:
    """Take up the last whole checkpoint, and say aloud what the bits may not survive. journal: of the first process,
    which reads for all."""
    found, wrong = latest(run.folder / CHECKPOINTS) if journal else (None, [])
    for line in wrong:
        tell(f"{line}; the checkpoint before is used")
    found = distributed.from_first(found)
    if found is None:
        tell(f"{run.id} has no checkpoint: it starts anew")
        if earlier := run.record.get("continued"):
            take_over(load(earlier), splits, parts)
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


def take_over(earlier: Run, splits: Splits, parts: Assembly) -> None:
    """Begin with the state in which another run has finished: its weights, optimizer, history. The learning rates and
    all else that is declared are the new run's own. Raises Mistakes where that cannot be.
    """
    state, setup = parts.state, parts.setup
    if splits.digest != earlier.record["data"]["digest"]:
        raise Mistakes([f"--continue {earlier.id}: it was trained on other data ({earlier.record['data']['source']})"])
    found, _ = latest(earlier.folder / CHECKPOINTS) if earlier.status == "FINISHED" else (None, [])
    if found is None:
        advice = "resume goes on with an unfinished run" if earlier.status != "FINISHED" else "its checkpoint is gone"
        raise Mistakes([f"--continue {earlier.id}: it is {earlier.status}; {advice}"])
    declared = [{name: value for name, value in g.items() if name != "params"} for g in state.optimizer.param_groups]
    unfit = f"--continue {earlier.id}: its state does not fit what is declared now"
    load_weights(state.trained, found.state["trained"], unfit)  # first, for it names the weights
    try:
        state.restore(found.state)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise Mistakes([f"{unfit}: {reason}"]) from None
    for group, own in zip(state.optimizer.param_groups, declared, strict=True):
        group.update(own)
    done = len(state.history)
    state.step = done * parts.context.steps_per_epoch
    if done >= setup.epochs:
        raise Mistakes([f"--continue {earlier.id}: it has trained {done} epochs; --epochs must be more than that"])
    if is_over(setup, state.history):
        advice = "its early stopping or its time has said stop; use --stopping none, more patience or more --minutes"
        raise Mistakes([f"--continue {earlier.id}: {advice}"])
