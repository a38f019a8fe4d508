"""A training step in bf16 against the same step in fp32, in turn, over networks of all sizes: where bf16 pays on a CPU.

    python -m tests.benchmarks.precision [ROUNDS [THREADS [PRECISION [NETWORK]]]]

Each row is the whole step of `fit` (forward, backward, optimizer, metrics) of one declaration. `--precision auto` uses
bf16 on a CPU by a rule (core/models/precision.py) over the FLOPs of the forward pass of a batch and those for each
element that a layer outputs; the last column is its choice. NETWORK: part of the name of what is measured.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from core.experiment import Experiment
from core.launch import Launch
from core.loading.images import Dataset, Images, Splits
from core.models import MLP, CifarResNet, Model, ResNet, SmallCNN, Timm, Torchvision, forward_flops
from core.models.precision import is_faster_in_bf16, output_elements
from core.optimizers import SGD
from core.training.assemble import Assembly, assemble
from core.training.loop import fit
from tests.benchmarks.common import in_turn

DEFAULTS = ("5", "2", "bf16", "")  # rounds, threads, what is held against fp32 (also bf16-true), part of a name
SECONDS = 1.0  # of each candidate in each round, at least
CANDIDATES: dict[str, tuple[Model, int, int, int]] = {  # model, side in pixels, channels, batch size
    "MLP 64-32-10, 8x8": (MLP(hidden=(32,)), 8, 1, 64),
    "MLP 3072-512-512-10, 32x32": (MLP(hidden=(512, 512)), 32, 3, 128),
    "SmallCNN 32-64 (digits_cnn), 8x8": (SmallCNN(widths=(32, 64)), 8, 1, 64),
    "SmallCNN 16-32-64 (cifar_cnn), 32x32": (SmallCNN(widths=(16, 32, 64)), 32, 3, 128),
    "SmallCNN 32-64-128, 32x32": (SmallCNN(widths=(32, 64, 128)), 32, 3, 128),
    "SmallCNN 64-128-256, 32x32": (SmallCNN(widths=(64, 128, 256)), 32, 3, 128),
    "SmallCNN 16-32-64, 32x32, batch 32": (SmallCNN(widths=(16, 32, 64)), 32, 3, 32),
    "SmallCNN 64-128, 8x8": (SmallCNN(widths=(64, 128)), 8, 1, 64),
    "ResNet-8, 32x32": (CifarResNet(depth=8), 32, 3, 128),
    "ResNet-20, 32x32": (CifarResNet(depth=20), 32, 3, 128),
    "ResNet-20, 32x32, batch 16": (CifarResNet(depth=20), 32, 3, 16),
    "ResNet-18, 32x32, batch 8": (ResNet(stem="cifar"), 32, 3, 8),
    "ResNet-18, 32x32, batch 32": (ResNet(stem="cifar"), 32, 3, 32),
    "ResNet-18, 8x8, batch 64": (ResNet(stem="cifar"), 8, 1, 64),
    "ResNet-50, 32x32, batch 32": (ResNet(depth=50, stem="cifar"), 32, 3, 32),
    "ResNet-50, 224x224, batch 8": (ResNet(depth=50), 224, 3, 8),
    "ResNeXt-50, 64x64": (Torchvision(name="resnext50_32x4d"), 64, 3, 8),
    "DenseNet-121, 64x64": (Torchvision(name="densenet121"), 64, 3, 8),
    "RegNetY-400MF, 64x64": (Torchvision(name="regnet_y_400mf"), 64, 3, 16),
    "SqueezeNet 1.1, 64x64": (Torchvision(name="squeezenet1_1"), 64, 3, 16),
    "MobileNet v3 small, 128x128": (Torchvision(name="mobilenet_v3_small", resize=128), 32, 3, 32),
    "MobileNet v2, 128x128": (Torchvision(name="mobilenet_v2", resize=128), 32, 3, 16),
    "EfficientNet-B0, 128x128": (Torchvision(name="efficientnet_b0", resize=128), 32, 3, 16),
    "ShuffleNet v2, 128x128": (Torchvision(name="shufflenet_v2_x1_0", resize=128), 32, 3, 16),
    "ConvNeXt-tiny, 64x64": (Torchvision(name="convnext_tiny"), 64, 3, 8),
    "ViT-B/16, 64x64": (Torchvision(name="vit_b_16"), 64, 3, 16),
    "ViT-S/16, 224x224": (Timm(name="vit_small_patch16_224"), 224, 3, 4),
    "Swin-tiny, 64x64": (Torchvision(name="swin_t"), 64, 3, 8),
}


class Noise(Dataset):
    """Random images of one size."""

    side: int
    channels: int
    count: int

    def load(self, root=None):
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (self.count, self.side, self.side, self.channels), dtype=np.uint8)
        images = Images(pixels, np.arange(len(pixels)), random.integers(0, 10, len(pixels)))
        few = images.take(np.arange(1))
        return Splits("noise", tuple("0123456789"), images, few, few, "", "")


def main() -> None:
    """Print the table."""
    *numbers, half, part = [*sys.argv[1:], *DEFAULTS[len(sys.argv) - 1 :]]
    rounds, threads = map(int, numbers)
    torch.set_num_threads(threads)
    cpu = torch.cpu.get_capabilities()["cpu_name"]
    print(f"torch {torch.__version__}, {threads} threads, {cpu}, {rounds} rounds in turn")
    print(f"{'':<40}{'GFLOPs':>9}{'per element':>13}{'fp32 ms':>10}{half:>10}{'lowest':>8}{'highest':>8}{'auto':>6}")
    for name, (model, side, channels, batch) in ((n, each) for n, each in CANDIDATES.items() if part in n):
        data = Noise(side=side, channels=channels, count=4 * batch)
        sgd = SGD(lr=1e-4, momentum=0.9)
        declared = Experiment(data=data, model=model, optimizer=sgd, epochs=10_000, batch_size=batch)
        network, shape = _assembled(declared).state.model, (side, side, channels)
        flops = forward_flops(network, shape) or 0
        chosen = is_faster_in_bf16(network, shape, batch, lambda flops=flops: flops)
        intensity = flops / output_elements(network, shape)
        figures = _measured(declared, rounds, half)
        each = sorted(a / b for a, b in zip(figures["fp32"], figures[half], strict=True))
        print(
            f"{name:<40}{flops * batch / 1e9:>9.3f}{intensity:>13.0f}{statistics.median(figures['fp32']) * 1e3:>10.1f}"
            f"{statistics.median(each):>9.2f}x{each[0]:>8.2f}{each[-1]:>8.2f}{'bf16' if chosen else 'fp32':>6}",
            flush=True,
        )


def _assembled(declared: Experiment) -> Assembly:
    return assemble(declared, declared.data.load(), Launch(log_every=10_000, device="cpu"))


def _measured(declared: Experiment, rounds: int, half: str) -> dict[str, list[float]]:
    """Seconds per step in each precision."""
    steppers = {name: _stepper(declared.but({"precision": name})) for name in ("fp32", half)}
    steps = max(1, int(SECONDS / steppers["fp32"](3)))
    return in_turn({name: partial(step, steps) for name, step in steppers.items()}, rounds)


def _stepper(declared: Experiment) -> Callable[[int], float]:
    """A function of a number of steps that returns seconds per step."""
    parts = _assembled(declared)
    events = (event for event in fit(parts.setup, parts.state, parts.train, parts.val) if event.validation is None)

    def step(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            next(events)
        return (time.perf_counter() - began) / count

    return step


if __name__ == "__main__":
    main()
