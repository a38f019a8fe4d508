"""fit(): the loop, from top to bottom. A generator of events; whoever iterates decides what to do with them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.linalg import vector_norm
from torch.nn.utils import clip_grads_with_norm_

from core import keys as K
from core.batches import Batch, Batches
from core.evaluate import Evaluation, evaluate
from core.methods import LossFunction, Method
from core.metrics import correct
from core.schedules import Clock, Schedule
from core.state import State
from core.stopping import EarlyStopping


@dataclass(frozen=True)
class Setup:
    """What the loop works with, built. It does not change; what changes is the State."""

    method: Method
    loss: LossFunction
    normalise: Callable[[Batch], Batch]
    augment: Callable[[Batch], Batch]
    schedule: Schedule
    stopping: EarlyStopping | None
    classes: int
    epochs: int
    log_every: int
    seed: int
    device: torch.device
    accumulate: int = 1
    clip_norm: float | None = None
    autocast: torch.dtype | None = None
    rank: int = 0

    def precision(self) -> AbstractContextManager[object]:
        """The context that forward passes run in."""
        return torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()


class Event(NamedTuple):
    """After each optimizer step, and after each epoch.

    step: optimizer steps done.  epoch: the epoch it belongs to, from 0.
    metrics: empty; or step/... after an interval; or the epoch's, and then `validation` is there too.
    """

    step: int
    epoch: int
    metrics: dict[str, float]
    validation: Evaluation | None = None


class NonFinite(ArithmeticError):
    """A loss or gradient was not a number, or infinite. The weights were kept from it. `step` counts from 1."""

    def __init__(self, step: int, epoch: int):
        self.step, self.epoch = step, epoch
        super().__init__(
            f"loss or gradient not finite at step {step} (epoch {epoch + 1}); the weights were kept from it. "
            "Lower optimizer.lr, add schedule.warmup_epochs or clip_norm, or use precision fp32"
        )


def fit(setup: Setup, state: State, train: Batches, val: Batches) -> Iterator[Event]:
    """Train `state` from where it stands to the end: all epochs, or until early stopping says so.

    Between two events the state is whole: it may be saved, and training may be left and taken up again from it.
    Raises NonFinite.
    """
    steps = len(train.plan)
    trained = [p for group in state.optimizer.param_groups for p in group["params"]]
    state.trained.train()
    while len(state.history) < setup.epochs and not (setup.stopping and setup.stopping(state.history)):
        epoch = len(state.history)
        start = state.step - epoch * steps
        seeds = K.step_seeds(setup.seed, setup.rank, state.step, steps - start)
        began = time.perf_counter()
        for batch, seed in zip(train.epoch(epoch, start), seeds, strict=True):
            _reseed(seed, setup.device)
            clock = Clock(state.step, steps, setup.epochs)
            _set_learning_rates(state.optimizer, setup.schedule(clock, state.history))
            _advance(setup, state, trained, setup.augment(setup.normalise(batch)), clock)
            state.step += 1
            done = state.step - epoch * steps
            due = done % setup.log_every == 0 or done == steps
            metrics = _read_interval(state, (done - 1) % setup.log_every + 1, epoch) if due else {}
            yield Event(state.step, epoch, metrics)
        yield _end_of_epoch(setup, state, train, val, (steps - start) / (time.perf_counter() - began))


def _advance(setup: Setup, state: State, trained: list[torch.Tensor], batch: Batch, clock: Clock) -> None:
    """One optimizer step on a batch. No synchronisation with the device, where the optimizer is fused."""
    optimizer, scaler = state.optimizer, state.scaler
    fused = all(group.get("fused") for group in optimizer.param_groups)

    def closure() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss, right = _gradients(setup, state, batch, clock)
        if scaler:
            scaler.unscale_(optimizer)
        # as torch.nn.utils.get_total_norm, which takes three times as long on few tensors
        norm = vector_norm(torch.stack(torch._foreach_norm([p.grad for p in trained if p.grad is not None])))
        if setup.clip_norm:
            clip_grads_with_norm_(trained, setup.clip_norm, norm)
        if scaler:  # it expects gradients to overflow now and then, and skips the step itself
            norm = norm.nan_to_num(0.0, 0.0, 0.0)
        state.sums += torch.stack([loss, right, norm])
        if fused:
            # A sum once not finite stays so: every step is called off on the device until the host looks.
            optimizer.found_inf = _not_finite(state.sums)  # type: ignore[attr-defined]
        elif _not_finite(state.sums):
            raise NonFinite(state.step + 1, clock.epoch)
        return loss

    if scaler:
        closure()
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step(closure)  # type: ignore[arg-type]
    if state.ema is not None:
        state.ema.update_parameters(state.model)


def _not_finite(sums: torch.Tensor) -> torch.Tensor:
    """float32 scalar, 1 where any of the sums is NaN or infinite, else 0."""
    return sums.sum(dtype=torch.float32).mul_(0.0).nan_to_num_(1.0)


def _gradients(setup: Setup, state: State, batch: Batch, clock: Clock) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the mean loss. (that mean, number of right predictions) on the device."""
    parts = [batch] if setup.accumulate == 1 else _split(batch, setup.accumulate)
    means, rights = [], []
    for part in parts:
        with setup.precision():
            losses, logits, _ = setup.method.step(state.model, setup.loss, part, clock)
        # the gradient of the mean over the whole batch, without a mean in the graph
        weights = torch.full_like(losses, 1 / (len(losses) * len(parts)))
        losses.backward(state.scaler.scale(weights) if state.scaler else weights)
        means.append(losses.detach().mean())
        rights.append(correct(logits.detach(), part.targets))
    return (means[0], rights[0]) if len(parts) == 1 else (torch.stack(means).mean(), torch.stack(rights).sum())


def _split(batch: Batch, parts: int) -> list[Batch]:
    return [Batch(*tensors) for tensors in zip(*(tensor.chunk(parts) for tensor in batch), strict=True)]


def _read_interval(state: State, steps: int, epoch: int) -> dict[str, float]:
    """Means over the last `steps` steps: the one place where the host waits for the device."""
    now = state.sums.tolist()
    if not math.isfinite(sum(now)):
        raise NonFinite(state.step, epoch)
    loss, _, norm = (after - before for after, before in zip(now, state.seen, strict=True))
    state.seen = now
    return {"step/loss": loss / steps, "step/lr": state.optimizer.param_groups[0]["lr"], "step/grad_norm": norm / steps}


def _end_of_epoch(setup: Setup, state: State, train: Batches, val: Batches, rate: float) -> Event:
    """Validate and start the sums anew. rate: steps per second."""
    with setup.precision():
        validation = evaluate(state.evaluated, setup.loss, val, setup.normalise, setup.classes)
    steps = len(train.plan)
    loss, right, _ = state.seen
    metrics = {"train/loss": loss / steps, "train/accuracy": right / (steps * train.plan.size)}
    metrics |= {f"val/{name}": value for name, value in validation.metrics.items()}
    metrics |= {"lr": state.optimizer.param_groups[0]["lr"]}
    state.history.append(metrics)
    state.sums.zero_()
    state.seen = [0.0] * len(state.seen)
    return Event(
        state.step, len(state.history) - 1, metrics | {"images_per_second": rate * train.plan.size}, validation
    )


def _set_learning_rates(optimizer: torch.optim.Optimizer, multiplier: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * multiplier


def _reseed(seed: int, device: torch.device) -> None:
    """Noise (dropout) is a function of seed, rank and step: no generator's state need be saved."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
