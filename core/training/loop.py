"""fit(): the training loop, a generator of events. The caller decides what to do with them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from core import randomness as K
from core.loading.batches import Batches
from core.schedules import Clock
from core.training import distributed
from core.training.averaging import average_epoch
from core.training.evaluate import Evaluation, evaluate
from core.training.nonfinite import diagnose
from core.training.state import OWN, State
from core.training.step import Setup, StepSkipped, advance, is_over, reseed, set_learning_rates

SMALLEST_SCALE = 2**-10


class Event(NamedTuple):
    """Yielded after each optimizer step and after each epoch.

    step: optimizer steps done.  epoch: its epoch, from 0.  metrics: step/... at the end of a logging interval, those of
    the epoch at its end, otherwise empty.  validation: set at the end of an epoch.
    """

    step: int
    epoch: int
    metrics: dict[str, float]
    validation: Evaluation | None = None


def fit(setup: Setup, state: State, train: Batches, val: Batches) -> Iterator[Event]:
    """Train `state` from its current step until all epochs are done, early stopping triggers or the time limit is
    reached.

    Between two events the state is consistent: it may be saved, and training may be resumed from it. Raises NonFinite.
    """
    steps = len(train.plan)
    trained = [p for group in state.optimizer.param_groups for p in group["params"]]
    state.trained.train()
    if state.stopwatch is not None:
        state.stopwatch.start()
    while not is_over(setup, state.history):
        epoch = len(state.history)
        frozen = setup.frozen.hold(state.model, epoch) if setup.frozen else []
        pruned = setup.pruning.hold(state, epoch)
        start = state.step - epoch * steps
        seeds = K.step_seeds(setup.seed, setup.rank, state.step, steps - start)
        began = time.perf_counter()
        for batch, seed in zip(train.epoch(epoch, start), seeds, strict=True):
            reseed(seed, setup.device)
            clock = Clock(state.step, steps, setup.epochs)
            set_learning_rates(state.optimizer, setup.schedule(clock, state.history))
            try:
                advance(setup, state, trained, setup.augment(setup.normalize(batch), clock), clock, frozen, pruned)
            except StepSkipped:
                raise diagnose(setup, state, train, state.step, state.step + 1) from None
            state.step += 1
            done = state.step - epoch * steps
            due = done % setup.log_every == 0 or done == steps
            metrics = read_interval(setup, state, train, (done - 1) % setup.log_every + 1) if due else {}
            yield Event(state.step, epoch, metrics)
        yield end_of_epoch(setup, state, train, val, (steps - start) / (time.perf_counter() - began))


def read_interval(setup: Setup, state: State, train: Batches, steps: int) -> dict[str, float]:
    """Means over the last `steps` steps. The only place where the host synchronizes with the device."""
    now = state.sums.tolist()
    # a scaler handles overflow by scaling down; below this scale, gradients overflow at any scale. One that is fixed
    # does not, and steps that overflow add nothing to the norm
    stuck = state.scaler and (
        state.scaler.get_scale() < SMALLEST_SCALE or (setup.fixed_scale and now[2] == state.seen[2])
    )
    if not math.isfinite(sum(now[:OWN])) or stuck:
        raise diagnose(setup, state, train, state.step - steps, state.step)
    loss, _, norm, *extras = (after - before for after, before in zip(now, state.seen, strict=True))
    state.seen = now
    metrics = {"step/loss": loss / steps, "step/lr": state.optimizer.param_groups[0]["lr"]}
    return metrics | {"step/grad_norm": norm / steps} | _extras("step", setup, extras, steps)


def _extras(kind: str, setup: Setup, sums: Sequence[float], steps: int) -> dict[str, float]:
    """Means of what the method reports, as metrics of a kind (step, train), without those that are not finite."""
    named = zip(setup.extras, sums, strict=True)
    return {f"{kind}/{name}": total / steps for name, total in named if math.isfinite(total)}


def end_of_epoch(setup: Setup, state: State, train: Batches, val: Batches, rate: float) -> Event:
    """Average weights, validate and reset the sums. rate: steps per second."""
    if state.swa is not None:
        average_epoch(setup, state, train)
    state.parallel.align(state.evaluated)
    with setup.precision():
        network, collector = state.evaluated, setup.collector
        validation = evaluate(network, setup.loss, val, setup.normalize, setup.classes, setup.task, collector)
    steps = len(train.plan)
    loss, right, _, *extras = state.seen
    rows = steps * train.plan.share * train.plan.views
    metrics = {"train/loss": loss / steps, "train/accuracy": right / rows}
    metrics |= _extras("train", setup, extras, steps)
    metrics |= {f"val/{name}": value for name, value in validation.metrics.items()}
    metrics |= {"lr": state.optimizer.param_groups[0]["lr"]} | setup.pruning.metrics(len(state.history))
    if state.stopwatch is not None:
        metrics |= {"minutes": distributed.from_first(state.stopwatch.seconds()) / 60}
    state.history.append(metrics)
    state.sums.zero_()
    state.seen = [0.0] * len(state.seen)
    return Event(
        state.step, len(state.history) - 1, metrics | {"images_per_second": rate * train.plan.size}, validation
    )
