"""labbook against bare scripts that do the same work, in turn within one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from core.augment import HorizontalFlip, RandomCrop
from core.experiment import Experiment
from core.models import ResNet, SmallCNN
from core.optimizers import SGD
from core.runs.seeds import train_seeds
from core.schedules import Clock, Cosine
from core.tracking.api import NoMirror
from core.training.assemble import Assembly
from core.training.loop import fit
from core.training.runtime import open_runtime
from tests.benchmarks.common import in_turn, ratio
from tests.gpu.bench import Bench, Noise

CLOCK = Clock(0, 1, 1)
Measured = dict[str, float]
PADDING = 4


def resnet18(bench: Bench) -> Measured:
    """A step of ResNet-18 with bf16: images/s of fit, with crop and flip on the device."""
    return _trained(bench, ResNet(depth=18, stem="cifar"), bench.of(512, 8), bench.of(40, 2))


def small_network(bench: Bench) -> Measured:
    """A step of a small, fast network with bf16, the size of that of airbench: images/s of fit."""
    return _trained(bench, SmallCNN(widths=(64, 256, 256)), bench.of(1_024, 8), bench.of(100, 2))


def resident_input(bench: Bench) -> Measured:
    """Random crop, flip and normalization of resident images: images/s of the batches."""
    parts = bench.built(_declared(SmallCNN(), bench.of(512, 16), bench.of(100, 4)))

    def labbook() -> float:
        return _rate(bench, parts, (parts.setup.augment(parts.setup.normalize(b), CLOCK) for b in parts.train.epoch(0)))

    bare = _BareInput(parts)
    return _compared(bench, {"labbook": labbook, "bare": lambda: _rate(bench, parts, bare.epoch())})


def fleet_of_16(bench: Bench) -> Measured:
    """16 seeds of an MLP trained together, against one after the other: seeds/s."""
    bench.needs_option("together")
    number = bench.of(16, 2)
    changes = {"model": {"class": "MLP", "hidden": (64,)}, "augment": (), "stopping": None}
    experiment = bench.digits.but(changes | {"epochs": bench.of(20, 1)})

    def timed(together: bool) -> Callable[[], float]:
        def measure() -> float:
            began = time.perf_counter()
            train_seeds(experiment, number, bench.launch(together=together), "tiny")
            return number / (time.perf_counter() - began)

        return measure

    figures = {name: measure() for name, measure in (("labbook", timed(True)), ("bare", timed(False)))}
    return figures | {"ratio": figures["labbook"] / figures["bare"], "rounds": 1}


def _declared(model: ResNet | SmallCNN, batch: int, steps: int) -> Experiment:
    return Experiment(
        data=Noise(images=batch * steps, size=32),
        model=model,
        augment=(RandomCrop(padding=PADDING), HorizontalFlip()),
        optimizer=SGD(lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=Cosine(),
        epochs=1,
        batch_size=batch,
        precision="bf16",
    )


def _trained(bench: Bench, model: ResNet | SmallCNN, batch: int, steps: int) -> Measured:
    experiment = _declared(model, batch, steps)

    def labbook() -> float:
        parts = bench.built(experiment)
        return _timed(bench, batch * steps, lambda: _steps(parts, steps))

    def bare() -> float:
        parts = bench.built(experiment)  # for its images and its network, of the same weights
        return _timed(bench, batch * steps, lambda: _bare_steps(parts))

    return _compared(bench, {"labbook": labbook, "bare": bare})


def _steps(parts: Assembly, steps: int) -> None:
    for event in fit(parts.setup, parts.state, parts.train, parts.val):
        if event.step == steps:  # before validation
            return


def _bare_steps(parts: Assembly) -> None:
    """The training loop that one would write by hand."""
    device, network = parts.setup.device, parts.state.model
    network.train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(parts.train.plan))
    for images, targets in _BareInput(parts).epoch():
        with torch.autocast(device.type, torch.bfloat16):
            loss = nn.functional.cross_entropy(network(images), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


class _BareInput:
    """Resident images of a declaration, shuffled, cropped, flipped and normalized with torch's own generator."""

    def __init__(self, parts: Assembly):
        split, device = parts.images, parts.setup.device
        self.size, self.device = parts.context.batch_size, device
        self.images = torch.from_numpy(split.pixels[split.rows]).to(device)  # type: ignore[index]
        self.targets = torch.from_numpy(split.targets).to(device)
        self.shift = 255 * torch.tensor(parts.mean, device=device).view(1, 3, 1, 1)
        self.scale = 255 * torch.tensor(parts.std, device=device).view(1, 3, 1, 1)

    def epoch(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(self.images), device=self.device)
        side = self.images.shape[1]
        span = torch.arange(side, device=self.device)
        for rows in order.split(self.size):
            images = (self.images[rows].permute(0, 3, 1, 2).float() - self.shift) / self.scale
            padded = nn.functional.pad(images, (PADDING,) * 4)
            top, left = torch.randint(0, 2 * PADDING + 1, (2, len(rows), 1), device=self.device)
            flipped = torch.rand(len(rows), 1, device=self.device) < 0.5
            columns = torch.where(flipped, side - 1 - span, span) + left
            which = torch.arange(len(rows), device=self.device)[:, None, None]
            cropped = padded.permute(0, 2, 3, 1)[which, (span + top)[:, :, None], columns[:, None, :]]
            yield cropped.permute(0, 3, 1, 2), self.targets[rows]


def _rate(bench: Bench, parts: Assembly, batches: Iterator[object]) -> float:
    return _timed(bench, parts.train.plan.count, lambda: [None for _ in batches])


def _timed(bench: Bench, images: int, action: Callable[[], object]) -> float:
    """Images per second."""
    bench.wait()
    began = time.perf_counter()
    action()
    bench.wait()
    return images / (time.perf_counter() - began)


def _compared(bench: Bench, candidates: Mapping[str, Callable[[], float]]) -> Measured:
    """Median of each, and the median ratio over rounds."""
    rounds = bench.of(7, 1)
    with open_runtime(bench.launch(), NoMirror()):  # its settings, such as cuDNN's benchmark, are for both
        figures = in_turn(candidates, rounds)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    return medians | {"ratio": ratio(figures, "labbook", "bare"), "rounds": rounds}


def ratios() -> Iterator[tuple[Callable[[Bench], Measured], int]]:
    """(entry, its time limit in seconds)."""
    yield resnet18, 60
    yield small_network, 45
    yield resident_input, 30
    yield fleet_of_16, 60
