"""The optimizer step."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch.linalg import vector_norm
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_

from core import randomness as K
from core.loading.batches import Batch
from core.methods import LossFunction, Method, Output
from core.metrics.names import History
from core.metrics.task import Task
from core.models.freeze import Frozen
from core.schedules import Clock, Schedule
from core.schedules.stopping import EarlyStopping, out_of_time
from core.training import distributed
from core.training.collect import Collector
from core.training.memory import within_memory
from core.training.pruning import UNPRUNED, Held, Pruning, mask_gradients, mask_weights
from core.training.shards import ONE_PER_PROCESS, OnePerProcess
from core.training.state import OWN, State


@dataclass(frozen=True)
class Setup:
    """The built parts that the loop uses. They are constant; everything that changes is in State."""

    method: Method
    loss: LossFunction
    normalize: Callable[[Batch], Batch]
    augment: Callable[[Batch, Clock], Batch]
    schedule: Schedule
    stopping: EarlyStopping | None
    task: Task
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
    fixed_scale: float | None = None  # of the loss under fp16; None: it is adapted
    rank: int = 0
    frozen: Frozen | None = None
    collector: Collector | None = None  # of the answers for val, if metrics are declared
    pruning: Pruning = UNPRUNED
    extras: tuple[str, ...] = ()  # names of what the method reports
    views: int = 1  # rows of each image in a batch
    shards: OnePerProcess = ONE_PER_PROCESS  # how a batch is divided, and its gradients are added

    def precision(self) -> AbstractContextManager[object]:
        """Autocast context of forward passes."""
        return torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()


def is_over(setup: Setup, history: History) -> bool:
    """Whether training ends after the epochs of this history: all epochs done, early stopping, or time limit
    reached."""
    # early stopping judges the network that is kept, so not the epochs in which it is being pruned
    judged = history[setup.pruning.complete_epoch :]
    if len(history) >= setup.epochs or (setup.stopping is not None and setup.stopping(judged)):
        return True
    return setup.max_minutes is not None and out_of_time(history, setup.max_minutes)


_NO, _YES = torch.zeros(()), torch.ones(())


class StepSkipped(Exception):
    """A step was skipped because its loss or gradient is not finite; weights and momentum are unchanged."""


def advance(
    setup: Setup,
    state: State,
    trained: list[torch.Tensor],
    batch: Batch,
    clock: Clock,
    frozen: Sequence[torch.Tensor] = (),
    pruned: Held = (),
) -> None:
    """Take one optimizer step on a normalized and augmented batch. frozen: tensors of `trained` that are not updated.
    pruned: those of which some weights stay zero.

    If memory runs out, the gradients are computed again in more micro-batches; see core/training/memory.py.
    A fused optimizer does not synchronize with the device: a non-finite step is skipped on the device, and so is every
    later one, until the host reads `state.sums`. Other optimizers raise StepSkipped.
    """
    optimizer, scaler = state.optimizer, state.scaler
    fused = optimizer.param_groups[0].get("fused")
    counted = False
    images = len(batch.keys) // setup.views // setup.grad_accum_steps

    def restart() -> None:
        reseed(K.step_seeds(setup.seed, setup.rank, clock.step, 1)[0], setup.device)

    def compute(part: Batch) -> list[torch.Tensor]:
        for parameter in trained:  # as optimizer.zero_grad(), at a tenth of its cost
            parameter.grad = None
        # a CUDA graph would overwrite the gradients of a micro-batch with those of the next one
        eager = torch.compiler.set_stance("force_eager") if state.split > 1 else nullcontext()
        with eager:
            return state.parallel.gradients(setup, state, part, clock)

    whole = partial(setup.shards.gradients, trained, batch, clock.step, compute)

    def closure() -> torch.Tensor:
        nonlocal counted
        loss, right, *extras = within_memory(state, images, restart, whole, setup.shards.divides)
        for parameter in state.parallel.own(frozen):  # optimizers skip parameters without a gradient
            parameter.grad = None
        mask_gradients(pruned)
        if scaler:
            scaler.unscale_(optimizer)
        norm = state.parallel.norm([p.grad for p in trained if p.grad is not None])
        if setup.clip_grad_norm:
            clip_grads_with_norm_(trained, setup.clip_grad_norm, norm)
        if setup.clip_grad_value:
            clip_grad_value_(trained, setup.clip_grad_value)
        if scaler:  # the scaler expects gradients to overflow occasionally, and skips such steps itself
            norm = norm.nan_to_num(0.0, 0.0, 0.0)
        found = setup.shards.mean(torch.stack([loss, right, norm, *extras]))
        # metrics are those of the first closure call, at the current weights; of later calls, such as SAM's second,
        # only whether they are finite counts: zero times NaN or infinity is NaN
        state.sums += found * 0.0 if counted else found
        counted = True
        if fused:
            # a non-finite sum remains non-finite: every step is skipped on the device until the host reads it
            optimizer.found_inf = _not_finite(state.sums[:OWN])  # type: ignore[attr-defined]
        elif _not_finite(state.sums[:OWN]):
            raise StepSkipped
        return loss

    if scaler:
        closure()
        scaler.step(optimizer)
        scaler.update(setup.fixed_scale)
    else:
        optimizer.step(closure)  # type: ignore[arg-type]
    mask_weights(pruned)
    if state.ema is not None:
        state.ema.update_parameters(state.model)


def gradient_norm(gradients: Iterable[torch.Tensor]) -> torch.Tensor:
    """Total 2-norm, as torch.nn.utils.get_total_norm, which takes three times as long for few tensors."""
    norm: torch.Tensor = vector_norm(torch.stack(torch._foreach_norm(list(gradients))))
    return norm


def _not_finite(sums: torch.Tensor) -> torch.Tensor:
    """float32 scalar on the same device, 1 where any of the sums is NaN or infinite, else 0."""
    if sums.device.type == "cpu":  # reading the value does not synchronize here, and is faster than computing
        return _NO if math.isfinite(sum(sums.tolist())) else _YES
    return sums.sum(dtype=torch.float32).mul_(0.0).nan_to_num_(1.0)


def gradients(
    setup: Setup, state: State, forward: Callable[..., Output], batch: Batch, clock: Clock
) -> list[torch.Tensor]:
    """Compute the gradients of the mean loss. Returns [mean loss, number of correct predictions, mean of each extra] of
    this process, on the device.

    forward: state.shared in training; with state.forward, gradients are not averaged over processes.
    """
    rows = len(batch.keys)
    steps = min(setup.grad_accum_steps * state.split, rows // setup.views)
    micro_batches = [batch] if steps == 1 else _split(batch, steps, setup.views)
    found = []
    for micro_batch in micro_batches:
        with distributed.last_of(forward, micro_batch is micro_batches[-1]):
            with setup.precision():
                output = forward(micro_batch, clock)
            losses = output.losses
            # gradient of the mean over the full batch, without a mean in the graph
            weights = equal_weights(len(losses), rows, losses.dtype, losses.device)
            losses.backward(state.scaler.scale(weights) if state.scaler else weights)
        right = setup.task.right(output.logits.detach(), micro_batch.targets)
        extras = [torch.dot(values, weights) for values in output.reported(setup.extras)]
        found.append([torch.dot(losses.detach(), weights), right, *extras])
    return found[0] if len(found) == 1 else [torch.stack(each).sum() for each in zip(*found, strict=True)]


@functools.cache
def equal_weights(count: int, rows: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[count], the weight of each example of a micro-batch in the mean over a batch of `rows` examples."""
    return torch.full((count,), 1 / rows, dtype=dtype, device=device)


def _split(batch: Batch, steps: int, views: int) -> list[Batch]:
    """Micro-batches, each with all views of its images."""
    parts = (tensor.unflatten(0, (-1, views)).tensor_split(steps) for tensor in batch)
    return [Batch(*(tensor.flatten(0, 1) for tensor in tensors)) for tensors in zip(*parts, strict=True)]


def set_learning_rates(optimizer: torch.optim.Optimizer, multiplier: float) -> None:
    """Set the learning rate of each parameter group to its initial rate times the multiplier of the schedule."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * multiplier


def reseed(seed: int, device: torch.device) -> None:
    """Seed torch's generators before a step. Noise (dropout) depends only on seed, rank and step, so that no generator
    state needs to be saved."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
