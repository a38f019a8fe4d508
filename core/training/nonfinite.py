"""Diagnosis of a non-finite loss or gradient: finds step, layer and samples by replaying batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from core import randomness as K
from core.common.errors import NonFinite
from core.loading.batches import Batch, Batches
from core.models.inspection import hooked
from core.schedules import Clock
from core.training import distributed
from core.training.state import State
from core.training.step import Setup, reseed

MOST_NAMED = 8


def diagnose(setup: Setup, state: State, train: Batches, first: int, end: int) -> NonFinite:
    """Build the error for the steps first .. end - 1 (from 0, of one epoch), one of which was skipped.

    The weights have not been updated since that step, so it is the first step whose gradient is not finite when
    replayed with them. All processes replay the same steps, each its own share.
    """
    per_epoch = len(train.plan)
    epoch = first // per_epoch
    seeds = K.step_seeds(setup.seed, setup.rank, first, end - first)
    for step, (seed, batch) in enumerate(
        zip(seeds, train.epoch(epoch, first - epoch * per_epoch), strict=False), first
    ):
        clock = Clock(step, per_epoch, setup.epochs)
        ready = setup.augment(setup.normalize(batch), clock)
        for replay in (_losses, _gradients):
            reseed(seed, setup.device)
            for part in setup.shards.parts(ready, step):
                with torch.compiler.set_stance("force_eager"):  # a compiled step has no layers to look at
                    own = replay(setup, state, part, clock)
                if where := next(filter(None, distributed.gathered(own)), ""):
                    return NonFinite(step + 1, epoch, where)
    aside = getattr(state.optimizer, "aside", "")
    return NonFinite(end, epoch, f"it did not occur again when the steps were replayed{aside}")


def _losses(setup: Setup, state: State, batch: Batch, clock: Clock) -> str:
    """Describe what is not finite in the forward pass of this batch; empty if everything is finite."""
    with _first_bad_output(state.model) as layers, torch.no_grad(), setup.precision():
        losses = state.forward(batch, clock).losses
    found = [f"layer {layers[0]} is the first with a non-finite output"] if layers else []
    if not getattr(setup.loss, "per_example", True) and not torch.isfinite(losses).all():
        mean = "the loss is not finite; as the mean over a batch, it does not show for which images"
        return "; ".join([*found, mean])
    if samples := batch.index[~torch.isfinite(losses)].tolist():
        named = ", ".join(map(str, samples[:MOST_NAMED])) + (", ..." if len(samples) > MOST_NAMED else "")
        return "; ".join([*found, f"{len(samples)} of {len(losses)} training images ({named}) have a non-finite loss"])
    return ""


def _gradients(setup: Setup, state: State, batch: Batch, clock: Clock) -> str:
    """Describe what is not finite in the gradients of this batch; empty if everything is finite."""
    state.optimizer.zero_grad(set_to_none=True)
    grads = state.parallel.replay(setup, state, batch, clock)
    norm = float(state.parallel.norm(list(grads.values())))
    if weights := [name for name, gradient in grads.items() if not torch.isfinite(gradient).all()]:
        return f"the loss is finite, but the gradient of {weights[-1].removeprefix('model.')} is not"
    if math.isfinite(norm) or not grads:
        return ""
    largest = max(grads, key=lambda name: float(grads[name].abs().max()) if grads[name].numel() else 0.0)
    return f"the norm of the gradient overflows; the largest gradient is that of {largest.removeprefix('model.')}"


@contextmanager
def _first_bad_output(model: nn.Module) -> Iterator[list[str]]:
    """Collects the names of layers whose output is not finite, in the order in which they ran."""
    bad: list[str] = []

    def look(name: str, module: nn.Module, output: object) -> None:
        if isinstance(output, torch.Tensor) and not torch.isfinite(output).all():
            bad.append(f"{name} ({type(module).__name__})")

    with hooked([(name, module) for name, module in model.named_modules() if not list(module.children())], look):
        yield bad
