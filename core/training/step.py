"""One optimizer step, and what it works with."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch.linalg import vector_norm
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_

from core.loading.batches import Batch
from core.methods import LossFunction, Method, Output
from core.metrics.classification import correct, matched
from core.metrics.names import History
from core.models.freeze import Frozen
from core.schedules import Clock, Schedule
from core.schedules.stopping import EarlyStopping, out_of_time
from core.training import distributed
from core.training.state import State


@dataclass(frozen=True)
class Setup:
    """What the loop works with, built. It does not change; what changes is the State."""

    method: Method
    loss: LossFunction
    normalize: Callable[[Batch], Batch]
    augment: Callable[[Batch], Batch]
    schedule: Schedule
    stopping: EarlyStopping | None
    classes: int
    epochs: int
    log_every: int
    seed: int
    device: torch.device
    grad_accum_steps: int = 1
    clip_grad_norm: float | None = None
    clip_grad_value: float | None = None
    max_minutes: float | None = None
    average_from: int | None = None
    autocast: torch.dtype | None = None
    rank: int = 0
    frozen: Frozen | None = None
    multi_label: bool = False

    def precision(self) -> AbstractContextManager[object]:
        """The context that forward passes run in."""
        return torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()


def is_over(setup: Setup, history: History) -> bool:
    """Whether training ends after the epochs of this history: all done, no more improvement, or no more time."""
    if len(history) >= setup.epochs or (setup.stopping is not None and setup.stopping(history)):
        return True
    return setup.max_minutes is not None and out_of_time(history, setup.max_minutes)


_NO, _YES = torch.zeros(()), torch.ones(())


class StepSkipped(Exception):
    """A step was not taken because its loss or gradient is not finite; weights and momentum are as before."""


def advance(
    setup: Setup,
    state: State,
    trained: list[torch.Tensor],
    batch: Batch,
    clock: Clock,
    standing: Sequence[torch.Tensor] = (),
) -> None:
    """One optimizer step on a batch, augmented and normalized. standing: those of `trained` that stand still.

    Where the optimizer is fused there is no synchronization with the device: a step that is not finite is called off
    there, and every later one too, until the host reads `state.sums`. Elsewhere it raises StepSkipped.
    """
    optimizer, scaler = state.optimizer, state.scaler
    fused = optimizer.param_groups[0].get("fused")
    counted = False

    def closure() -> torch.Tensor:
        nonlocal counted
        for parameter in trained:  # as optimizer.zero_grad(), at a tenth of its cost
            parameter.grad = None
        loss, right = gradients(setup, state, state.shared, batch, clock)
        for parameter in standing:  # what has no gradient no optimizer moves
            parameter.grad = None
        if scaler:
            scaler.unscale_(optimizer)
        norm = gradient_norm(p.grad for p in trained if p.grad is not None)
        if setup.clip_grad_norm:
            clip_grads_with_norm_(trained, setup.clip_grad_norm, norm)
        if setup.clip_grad_value:
            clip_grad_value_(trained, setup.clip_grad_value)
        if scaler:  # it expects gradients to overflow now and then, and skips the step itself
            norm = norm.nan_to_num(0.0, 0.0, 0.0)
        found = distributed.mean(torch.stack([loss, right, norm]))
        # what is reported is found at the weights themselves; of a later gradient, such as SAM's second, only whether
        # it is finite: zero times a NaN or infinity is NaN
        state.sums += found * 0.0 if counted else found
        counted = True
        if fused:
            # A sum once not finite stays so: every step is called off on the device until the host looks.
            optimizer.found_inf = _not_finite(state.sums)  # type: ignore[attr-defined]
        elif _not_finite(state.sums):
            raise StepSkipped
        return loss

    if scaler:
        closure()
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step(closure)  # type: ignore[arg-type]
    if state.ema is not None:
        state.ema.update_parameters(state.model)


def gradient_norm(gradients: Iterable[torch.Tensor]) -> torch.Tensor:
    """2-norm of all together. As torch.nn.utils.get_total_norm, which takes three times as long on few tensors."""
    norm: torch.Tensor = vector_norm(torch.stack(torch._foreach_norm(list(gradients))))
    return norm


def _not_finite(sums: torch.Tensor) -> torch.Tensor:
    """float32 scalar on the same device, 1 where any of the sums is NaN or infinite, else 0."""
    if sums.device.type == "cpu":  # nothing to wait for: looking is faster than computing
        return _NO if math.isfinite(sum(sums.tolist())) else _YES
    return sums.sum(dtype=torch.float32).mul_(0.0).nan_to_num_(1.0)


def gradients(
    setup: Setup, state: State, forward: Callable[..., Output], batch: Batch, clock: Clock
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the mean loss. (that mean, number of right predictions) of this process, on the device.

    forward: state.shared in training; state.forward leaves the other processes out of it.
    """
    parts = [batch] if setup.grad_accum_steps == 1 else _split(batch, setup.grad_accum_steps)
    means, rights = [], []
    count = matched if setup.multi_label else correct
    for part in parts:
        with distributed.last_of(forward, part is parts[-1]):
            with setup.precision():
                losses, logits = forward(part, clock)
            # the gradient of the mean over the whole batch, without a mean in the graph
            weights = _equal(len(losses), len(parts), losses.dtype, losses.device)
            losses.backward(state.scaler.scale(weights) if state.scaler else weights)
        means.append(losses.detach() @ weights)
        rights.append(count(logits.detach(), part.targets))
    return (means[0], rights[0]) if len(parts) == 1 else (torch.stack(means).sum(), torch.stack(rights).sum())


@functools.cache
def _equal(count: int, parts: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[count], what each of so many examples weighs in the mean over a batch of so many parts."""
    return torch.full((count,), 1 / (count * parts), dtype=dtype, device=device)


def _split(batch: Batch, parts: int) -> list[Batch]:
    return [Batch(*tensors) for tensors in zip(*(tensor.chunk(parts) for tensor in batch), strict=True)]


def set_learning_rates(optimizer: torch.optim.Optimizer, multiplier: float) -> None:
    """Each group's own rate times the schedule's multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * multiplier


def reseed(seed: int, device: torch.device) -> None:
    """Noise (dropout) is a function of seed, rank and step: no generator's state need be saved."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
