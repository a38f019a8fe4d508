"""When a loss or gradient is not finite: which step, which layer, which samples. Found by replaying keyed batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from core import keys as K
from core.common.errors import NonFinite
from core.loading.batches import Batch, Batches
from core.schedules import Clock
from core.training import distributed
from core.training.state import State
from core.training.step import Setup, gradient_norm, gradients, reseed

MOST_NAMED = 8


def diagnose(setup: Setup, state: State, train: Batches, first: int, end: int) -> NonFinite:
    """The error to raise for the steps first .. end - 1 (from 0, of one epoch), one of which was called off.

    The weights are those of that step, for nothing has moved them since; so the first step whose gradient is not
    finite when replayed with them is the one. All processes replay in step, each its own share.
    """
    per_epoch = len(train.plan)
    epoch = first // per_epoch
    seeds = K.step_seeds(setup.seed, setup.rank, first, end - first)
    for step, (seed, batch) in enumerate(
        zip(seeds, train.epoch(epoch, first - epoch * per_epoch), strict=False), first
    ):
        ready, clock = setup.augment(setup.normalize(batch)), Clock(step, per_epoch, setup.epochs)
        for replay in (_losses, _gradients):
            reseed(seed, setup.device)
            if where := next(filter(None, distributed.gathered(replay(setup, state, ready, clock))), ""):
                return NonFinite(step + 1, epoch, where)
    aside = getattr(state.optimizer, "aside", "")
    return NonFinite(end, epoch, f"it did not come again when the steps were replayed{aside}")


def _losses(setup: Setup, state: State, batch: Batch, clock: Clock) -> str:
    """What is not finite about the forward pass of this batch; empty if all is."""
    with _first_bad_output(state.model) as layers, torch.no_grad(), setup.precision():
        losses, _ = state.forward(batch, clock)
    found = [f"layer {layers[0]} is the first whose output is not"] if layers else []
    if samples := batch.index[~torch.isfinite(losses)].tolist():
        named = ", ".join(map(str, samples[:MOST_NAMED])) + (", ..." if len(samples) > MOST_NAMED else "")
        return "; ".join([*found, f"{len(samples)} of {len(losses)} training images ({named}) have such a loss"])
    return ""


def _gradients(setup: Setup, state: State, batch: Batch, clock: Clock) -> str:
    """What is not finite about the gradients of this batch; empty if all are."""
    state.optimizer.zero_grad(set_to_none=True)
    gradients(setup, state, state.forward, batch, clock)
    grads = {name: p.grad for name, p in state.trained.named_parameters() if p.grad is not None}
    if weights := [name for name, gradient in grads.items() if not torch.isfinite(gradient).all()]:
        return f"the loss is, but not the gradient of {weights[-1].removeprefix('model.')}"
    largest = max(grads, key=lambda name: float(grads[name].abs().max()))
    if math.isfinite(float(gradient_norm(grads.values()))):
        return ""
    return f"the gradient is too large for its norm, most of all that of {largest.removeprefix('model.')}"


@contextmanager
def _first_bad_output(model: nn.Module) -> Iterator[list[str]]:
    """Collects the names of layers whose output is not finite, in the order in which they ran."""
    bad: list[str] = []

    def hook(name: str) -> Callable[[nn.Module, object, object], None]:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, torch.Tensor) and not torch.isfinite(output).all():
                bad.append(f"{name} ({type(module).__name__})")

        return look

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(hook(name)) for name, module in leaves]
    try:
        yield bad
    finally:
        for handle in handles:
            handle.remove()
