"""--diagnose: how each layer fares, once an epoch. Functions of weights before and after a step, and of one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from core.loading.batches import Batch
from core.models.inspection import evaluation_mode, hooked
from core.record.journal import Journal
from core.training.loop import Event
from core.training.step import gradient_norm

if TYPE_CHECKING:
    from core.training.assemble import Assembly

Layers = dict[str, list[torch.Tensor]]  # name of a layer -> its own parameters
IMAGES = 256  # of validation, at most, by which a unit is found dead
RECTIFIERS = (nn.ReLU, nn.ReLU6)


def layers(model: nn.Module) -> Layers:
    """Trained parameters by the module that owns them; one that two modules share counts for the first."""
    found: Layers = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.setdefault(name.rpartition(".")[0] or "model", []).append(parameter)
    return found


@torch.no_grad()
def copied(found: Layers) -> Layers:
    """The values that they have now."""
    return {name: [p.detach().clone() for p in parameters] for name, parameters in found.items()}


@torch.no_grad()
def update_ratios(before: Layers, after: Layers) -> dict[str, float]:
    """||after - before|| / ||before|| of each layer, 2-norms; about 1e-3 a step is healthy (Karpathy 2019, "A recipe
    for training neural networks", and his lectures). Layers that are all zero before are left out."""
    ratios = {}
    for name, old in before.items():
        weight = float(gradient_norm(old))
        if weight:
            moved = [new.detach() - was for new, was in zip(after[name], old, strict=True)]
            ratios[name] = float(gradient_norm(moved)) / weight
    return ratios


@torch.no_grad()
def gradient_norms(found: Layers) -> dict[str, float]:
    """2-norm of the gradient of the last step, after clipping, of each layer that had one."""
    grads = {name: [p.grad for p in parameters if p.grad is not None] for name, parameters in found.items()}
    return {name: float(gradient_norm(each)) for name, each in grads.items() if each}


@torch.no_grad()
def dead_units(model: nn.Module, images: torch.Tensor) -> dict[str, float]:
    """Share of the units of each ReLU module that are zero for every image, and at every place of it: channels of
    [N, C, H, W], features (the last axis) of everything else. A module that runs twice counts the units of both.
    Such a unit learns nothing more (Maas et al. 2013). Leaves the model in its mode."""
    counts: dict[str, list[int]] = {}

    def count(name: str, module: nn.Module, output: torch.Tensor) -> None:
        axis = 1 if output.ndim == 4 else -1
        alive = (output > 0).movedim(axis, 0).flatten(1).any(dim=1)
        dead, units = counts.get(name, [0, 0])
        counts[name] = [dead + int((~alive).sum()), units + len(alive)]

    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, RECTIFIERS)]
    with evaluation_mode(model), hooked(modules, count):
        model(images)
    return {name: dead / units for name, (dead, units) in counts.items()}


@contextmanager
def diagnosed(journal: Journal, parts: Assembly, say: Callable[[str], None]) -> Iterator[Callable[[Event], None]]:
    """Journal layer/<name>/update_ratio and grad_norm of the last step of each epoch, and layer/<name>/dead."""
    diagnosis = _Diagnosis(journal, parts)
    yield diagnosis
    for line in told(diagnosis.last):
        say(line)


class _Diagnosis:
    def __init__(self, journal: Journal, parts: Assembly):
        self.journal, self.parts = journal, parts
        self.layers = layers(parts.state.model)
        self.before: Layers | None = None
        self.batch: Batch | None = None
        self.last: Mapping[str, float] = {}
        self._copy_before_last_step(parts.state.step)

    def __call__(self, event: Event) -> None:
        if event.validation is not None:
            self.last = self._look()
            self.journal.metrics(event.epoch + 1, self.last)
        elif self.parts.context.steps_per_epoch == 1:
            return  # the step before the last one of an epoch is that of the epoch before
        self._copy_before_last_step(event.step)

    def _copy_before_last_step(self, step: int) -> None:
        if (step + 1) % self.parts.context.steps_per_epoch == 0:
            self.layers = layers(self.parts.state.model)  # those of this epoch: a frozen one may have been let go
            self.before = copied(self.layers)

    def _look(self) -> dict[str, float]:
        # resumed after the last step of an epoch, there is no weight before it to compare with
        found = {"update_ratio": update_ratios(self.before, self.layers)} if self.before else {}
        found |= {"grad_norm": gradient_norms(self.layers)}
        with self.parts.setup.precision():
            found |= {"dead": dead_units(self.parts.state.model, self._images())}
        self.before = None
        return {f"layer/{name}/{kind}": value for kind, each in found.items() for name, value in each.items()}

    def _images(self) -> torch.Tensor:
        if self.batch is None:
            batch = next(iter(self.parts.val.epoch(0)))
            self.batch = self.parts.setup.normalize(Batch(*(tensor[:IMAGES] for tensor in batch)))
        return self.batch.images


def told(metrics: Mapping[str, float]) -> list[str]:
    """The extremes of the last epoch in one line each, for people."""
    lines = []
    for kind, meaning in (("update_ratio", "update / weight in a step"), ("dead", "dead ReLU units")):
        values = {name.split("/")[1]: value for name, value in metrics.items() if name.endswith(f"/{kind}")}
        if values:
            low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
            lines.append(f"{meaning}: {values[low]:.1e} (layer {low}) to {values[high]:.1e} (layer {high})")
    return lines
