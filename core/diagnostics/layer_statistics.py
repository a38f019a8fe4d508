"""--diagnose: statistics of each layer, once per epoch: update ratios, gradient norms and dead ReLU units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
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

Layers = dict[str, list[torch.Tensor]]  # name of a layer -> its parameters
IMAGES = 256  # maximum number of validation images used to find dead units
RECTIFIERS = (nn.ReLU, nn.ReLU6)


def layers(model: nn.Module) -> Layers:
    """Trainable parameters by the module that owns them; a parameter shared by two modules belongs to the first."""
    found: Layers = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.setdefault(name.rpartition(".")[0] or "model", []).append(parameter)
    return found


@torch.no_grad()
def copied(found: Layers) -> Layers:
    """Copy the current values of the parameters."""
    return {name: [p.detach().clone() for p in parameters] for name, parameters in found.items()}


@torch.no_grad()
def update_ratios(before: Layers, after: Layers) -> dict[str, float]:
    """Update ratio ||after - before|| / ||before|| of each layer, 2-norms; about 1e-3 per step is healthy (Karpathy
    2019, "A recipe for training neural networks", and his lectures). Layers that are all zero before are omitted."""
    ratios = {}
    for name, old in before.items():
        weight = float(gradient_norm(old))
        if weight:
            moved = [new.detach() - was for new, was in zip(after[name], old, strict=True)]
            ratios[name] = float(gradient_norm(moved)) / weight
    return ratios


@torch.no_grad()
def gradient_norms(found: Layers) -> dict[str, float]:
    """2-norm of the gradient of each layer in the last step, after clipping. Layers without a gradient are omitted."""
    grads = {name: [p.grad for p in parameters if p.grad is not None] for name, parameters in found.items()}
    return {name: float(gradient_norm(each)) for name, each in grads.items() if each}


@torch.no_grad()
def dead_units(model: nn.Module, images: torch.Tensor) -> dict[str, float]:
    """Fraction of dead units of each ReLU module: units whose output is zero for every image at every position (Maas et
    al. 2013). Units are the channels of [N, C, H, W], or the features (last axis) of other shapes; a module that runs
    twice counts the units of both calls. Restores the training mode of the model."""
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
    """Record layers/<name>.update_ratio and grad_norm of the last step of each epoch, and layers/<name>.dead."""
    diagnosis = _Diagnosis(journal, parts)
    yield diagnosis
    for line in extremes(diagnosis.epochs):
        say(line)


class _Diagnosis:
    def __init__(self, journal: Journal, parts: Assembly):
        self.journal, self.parts = journal, parts
        self.layers = layers(parts.state.model)
        self.before: Layers | None = None
        self.batch: Batch | None = None
        self.epochs: list[Mapping[str, float]] = []
        self._copy_before_last_step(parts.state.step)

    def __call__(self, event: Event) -> None:
        steps = self.parts.context.steps_per_epoch
        # after the last step of an epoch, and not after its validation: a checkpoint may be written in between, and
        # a run that resumes from there does not take this step again
        if event.validation is None and event.step == (event.epoch + 1) * steps:
            self.epochs.append(self._look())
            self.journal.metrics(event.epoch + 1, self.epochs[-1])
        if event.validation is None and steps == 1:
            return  # the weights may still change until the next epoch begins
        self._copy_before_last_step(event.step)

    def _copy_before_last_step(self, step: int) -> None:
        if (step + 1) % self.parts.context.steps_per_epoch == 0:
            self.layers = layers(self.parts.state.model)  # may change between epochs: a layer may have been unfrozen
            self.before = copied(self.layers)

    def _look(self) -> dict[str, float]:
        # after a resume at the end of an epoch, the weights before its last step are not known
        found = {"update_ratio": update_ratios(self.before, self.layers)} if self.before else {}
        found |= {"grad_norm": gradient_norms(self.layers)}
        with self.parts.setup.precision():
            found |= {"dead": dead_units(self.parts.state.model, self._images())}
        self.before = None
        # one section of MLflow's page, whatever the number of layers
        return {f"layers/{name}.{kind}": value for kind, each in found.items() for name, value in each.items()}

    def _images(self) -> torch.Tensor:
        if self.batch is None:
            batch = next(iter(self.parts.val.epoch(0)))
            self.batch = self.parts.setup.normalize(Batch(*(tensor[:IMAGES] for tensor in batch)))
        return self.batch.images


def extremes(epochs: Sequence[Mapping[str, float]]) -> list[str]:
    """Layers with the smallest and largest values, as lines of text. A layer's value is its median over the epochs,
    because the last steps of most schedules have a learning rate near 0."""
    lines = []
    for kind, meaning in (("update_ratio", "update ratio per step"), ("dead", "fraction of dead ReLU units")):
        names = {name for metrics in epochs for name in metrics if name.endswith(f".{kind}")}
        values = {
            name.removeprefix("layers/").removesuffix(f".{kind}"): median(m[name] for m in epochs if name in m)
            for name in sorted(names)
        }
        if not values:
            continue
        low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
        highest = f" to {values[high]:.1e} (layer {high})" if values[low] < values[high] else " in every layer"
        lowest = f"{values[low]:.1e}" + (f" (layer {low})" if values[low] < values[high] else "")
        lines.append(f"{meaning}, median of the epochs: {lowest}{highest}")
    return lines
