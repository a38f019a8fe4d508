"""Accuracy and time of experiments.cifar_speedrun against a bare script with the same recipe, in turn.

    python -m tests.benchmarks.speedrun --root PATH                        8 epochs, 3 seeds
    python -m tests.benchmarks.speedrun --root PATH --epochs 2 --images 2000 --batch 250 --seeds 1
    python -m tests.benchmarks.speedrun --root PATH --device cuda --seeds 10

The script is written after airbench94_muon (Jordan 2024, github.com/KellerJordan/cifar10-airbench), as it would be
ported: plain torch, without labbook. It keeps weights in fp32 and computes in bf16 by autocast, where the source has
half-precision weights. Both train on the same images, and each run has a process of its own, because labbook makes
the C library keep freed memory (core/training/runtime.py), which a script does not.

Timed: from decoded images to the accuracy on test with test-time augmentation. labbook's time includes what its script
does not do: journal, checkpoints, and validation after each epoch; the report is left out. CPU is that of all threads.
To reach: at most 0.8x of the script on a CPU, 1.0x on a GPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("LABBOOK_HOME", tempfile.mkdtemp())

import torch
import torch.nn.functional as F
from torch import nn

from core.common.device import device_of
from core.common.machine import threads_each
from core.common.statistics import mean_and_interval
from core.launch import Launch
from core.runs.recorder import RunSpec
from core.runs.results import evaluate_split
from core.runs.train import opened
from core.training.assemble import load_splits
from core.training.runtime import open_runtime
from experiments.cifar_speedrun import EXPERIMENT
from tests.benchmarks.common import show


class Options(NamedTuple):
    root: Path | None
    epochs: int
    images: int | None
    batch: int
    device: str
    threads: int

    def experiment(self, seed):
        changes = {"epochs": self.epochs, "batch_size": self.batch, "seed": seed}
        return EXPERIMENT.but(changes | ({"limit": self.images} if self.images else {}))

    def launch(self):
        return Launch(root=self.root, device=self.device, threads=self.threads, mlflow=False)


class Figures(NamedTuple):
    accuracy: float
    cpu: float
    wall: float


class Clock:
    def __init__(self):
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def read(self, accuracy):
        return Figures(accuracy, time.process_time() - self.cpu, time.perf_counter() - self.wall)


def labbook(options: Options, seed: int) -> Figures:
    experiment, launch = options.experiment(seed), options.launch()
    load_splits(experiment, launch)  # decoded, and in the cache of the machine
    clock = Clock()
    with (
        open_runtime(launch, None) as runtime,
        opened(RunSpec.of(experiment, launch, "speedrun"), runtime) as trainer,
    ):
        for _ in trainer.events():
            pass
        result, _ = evaluate_split(trainer.parts, "test", trainer.parts.splits.test)
    return clock.read(result.metrics["accuracy"])


# ---- the bare script


class Block(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(after, momentum=0.4), nn.BatchNorm2d(after, momentum=0.4)
        for conv in (self.conv1, self.conv2):
            nn.init.dirac_(conv.weight.data[: conv.in_channels])
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad_(False)

    def forward(self, x):
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad_(False)
        self.blocks = nn.Sequential(Block(24, 64), Block(64, 256), Block(256, 256))
        self.head = nn.Linear(256, 10, bias=False)
        self.head.weight.data /= self.head.weight.data.std()

    def fit_whitening(self, images):
        patches = F.unfold(images, 2).transpose(0, 1).flatten(1)
        values, vectors = torch.linalg.eigh(patches @ patches.T / patches.shape[1])
        filters = (vectors / (values + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
        self.whiten.weight.data.copy_(torch.cat([filters, -filters]))

    def forward(self, x, train_bias=False):
        bias = self.whiten.bias if train_bias else self.whiten.bias.detach()
        x = self.blocks(F.gelu(F.conv2d(x, self.whiten.weight, bias)))
        return self.head(F.max_pool2d(x, 3).flatten(1)) / 256


@torch.no_grad()
def muon_step(weights, buffers, lr):
    for p, buffer in zip(weights, buffers, strict=True):
        buffer.mul_(0.6).add_(p.grad)
        x = (p.grad + 0.6 * buffer).flatten(1).bfloat16()
        x /= x.norm() + 1e-7
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        for _ in range(3):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        p *= len(p) ** 0.5 / p.norm()
        p.add_((x.T if tall else x).reshape(p.shape), alpha=-lr)


def shifted(padded, generator):
    """Each of the images padded by two pixels cropped at a random place."""
    count, size = len(padded), padded.shape[-1] - 4
    down, right = torch.randint(5, (2, count), generator=generator).to(padded.device)
    out = torch.empty(count, 3, size, size, device=padded.device).to(memory_format=torch.channels_last)
    for y in range(5):
        for x in range(5):
            chosen = (down == y) & (right == x)
            out[chosen] = padded[chosen, :, y : y + size, x : x + size]
    return out


def views(net, x):
    def both(x):
        return net(x) + net(x.flip(3))

    padded = F.pad(x, (1,) * 4, "reflect")
    moved = both(padded[:, :, :-2, :-2]) + both(padded[:, :, 2:, 2:])
    return both(x) / 4 + moved / 8


def script(options: Options, seed: int) -> Figures:
    torch.set_num_threads(options.threads)
    device = device_of(options.device)
    torch.backends.cudnn.benchmark = True
    splits = load_splits(options.experiment(seed), options.launch())

    def tensors(images):
        return torch.from_numpy(images.pixels[images.rows]).to(device), torch.from_numpy(images.targets).to(device)

    (pixels, labels), (test, test_labels) = tensors(splits.train), tensors(splits.test)
    clock = Clock()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    mean, std = (torch.tensor(v, device=device) for v in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))

    def normalized(pixels):
        return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)  # channels last in memory

    images = normalized(pixels)
    net = Net().to(device).to(memory_format=torch.channels_last)
    # a sample of all classes: images of a folder are sorted by class
    net.fit_whitening(images[torch.randperm(len(images), generator=generator)[:5000].to(device)])
    batch, steps = options.batch, len(images) // options.batch
    total, biased, decay = options.epochs * steps, min(3, options.epochs) * steps, 2e-6 * options.batch
    norms = [p for name, p in net.named_parameters() if "norm" in name and p.requires_grad]
    groups = [
        {"params": [net.whiten.bias], "lr": 0.053, "weight_decay": decay / 0.053},
        {"params": norms, "lr": 0.053, "weight_decay": decay / 0.053},
        {"params": [net.head.weight], "lr": 0.67, "weight_decay": decay / 0.67},
    ]
    sgd = torch.optim.SGD(groups, momentum=0.85, nesterov=True, fused=True)
    first = [group["lr"] for group in sgd.param_groups]
    filters = [p for p in net.parameters() if p.ndim == 4 and p.requires_grad]
    buffers = [torch.zeros_like(p) for p in filters]
    flipped = (torch.rand(len(images), generator=generator) < 0.5).to(device)
    padded = F.pad(torch.where(flipped[:, None, None, None], images.flip(3), images), (2,) * 4, "reflect")
    net.train()
    for epoch in range(options.epochs):
        seen = shifted(padded, generator)
        seen = seen.flip(3) if epoch % 2 else seen
        order = torch.randperm(len(seen), generator=generator).to(device)
        for step in range(steps):
            chosen, done = order[step * batch : (step + 1) * batch], epoch * steps + step
            for group, rate in zip(sgd.param_groups, first, strict=True):
                group["lr"] = rate * (1 - done / total)
            sgd.param_groups[0]["lr"] = first[0] * max(0.0, 1 - done / biased)
            with torch.autocast(device.type, torch.bfloat16):
                logits = net(seen[chosen], train_bias=done < biased)
            F.cross_entropy(logits.float(), labels[chosen], label_smoothing=0.2, reduction="sum").backward()
            sgd.step()
            muon_step(filters, buffers, 0.24 * (1 - done / total))
            net.zero_grad(set_to_none=True)
    net.eval()
    right = 0
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        for some, truth in zip(test.split(2000), test_labels.split(2000), strict=True):
            right += (views(net, normalized(some)).argmax(1) == truth).sum().item()
    return clock.read(right / len(test))


def alone(train, options, seed):
    """Figures of a run in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(train, options, seed).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder or archive of CIFAR-10")
    parser.add_argument("--epochs", type=int, default=EXPERIMENT.epochs)
    parser.add_argument("--images", type=int, help="at most so many images of each split")
    parser.add_argument("--batch", type=int, default=EXPERIMENT.batch_size)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=threads_each())
    given = parser.parse_args()
    options = Options(given.root, given.epochs, given.images, given.batch, given.device, given.threads)
    load_splits(options.experiment(0), options.launch())  # decodes them, once
    found: dict[str, list[Figures]] = {"script": [], "labbook": []}
    print(f"{'seed':>4} {'':<8} {'accuracy':>9} {'CPU s':>9} {'wall s':>9}")
    for seed in range(given.seeds):
        for name, train in (("script", script), ("labbook", labbook)):
            one = alone(train, options, seed)
            found[name].append(one)
            print(f"{seed:>4} {name:<8} {one.accuracy:>9.2%} {one.cpu:>9.1f} {one.wall:>9.1f}", flush=True)
    torch.set_num_threads(options.threads)  # which the tables state
    for unit in ("cpu", "wall"):
        figures = {name: [getattr(one, unit) for one in runs] for name, runs in found.items()}
        show(f"{unit} time of {options.epochs} epochs on {options.device}", figures, "script", "s")
    for name, runs in found.items():
        mean, _, half = mean_and_interval([one.accuracy for one in runs])
        print(f"{name}: accuracy {mean:.2%} +- {half * 100:.2f} (n = {len(runs)})")


if __name__ == "__main__":
    main()
