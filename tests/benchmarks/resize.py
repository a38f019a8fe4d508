"""CPU time of a training step of ResNet-18 on images of 24 pixels that Resize made, against 32 pixels.

    python -m tests.benchmarks.resize [ROUNDS]

CIFAR-sized images (random pixels), CIFAR stem, batch 64, fp32, one thread, through the ordinary `advance`. FLOPs alone
say (24 / 32)^2 = 0.56. `resizing` is what Resize itself takes, as a part of the step with 32 pixels.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from core.augment import HorizontalFlip, RandomCrop, Resize
from core.context import Clock
from core.experiment import Experiment
from core.launch import Launch
from core.loading.images import Dataset, Images, Splits
from core.models import ResNet
from core.optimizers import SGD
from core.training.assemble import Assembly, assemble
from core.training.step import advance
from tests.benchmarks.common import in_turn, show

BATCH = 64
FIRST, LAST = Clock(0, 1, 10), Clock(9, 1, 10)


class Noise(Dataset):
    """Random pictures, as many as two batches."""

    def load(self, root=None) -> Splits:
        pixels = np.random.default_rng(0).integers(0, 256, (2 * BATCH, 32, 32, 3), dtype=np.uint8)
        images = Images(pixels, np.arange(2 * BATCH), np.arange(2 * BATCH) % 10)
        return Splits("noise", tuple("abcdefghij"), images, images, images, "none", "made up")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    torch.set_num_threads(1)
    resize = Resize(initial_scale=0.75)
    experiment = Experiment(
        data=Noise(),
        model=ResNet(depth=18, stem="cifar"),
        augment=(RandomCrop(padding=4), HorizontalFlip(), resize),
        optimizer=SGD(lr=0.01),
        batch_size=BATCH,
        precision="fp32",
    )
    parts = assemble(experiment, experiment.data.load(None), Launch(device="cpu", threads=1))
    parts.state.trained.train()
    figures = in_turn(
        {
            "32 pixels": lambda: step(parts, LAST),
            "24 pixels": lambda: step(parts, FIRST),
            "resizing": lambda: resizing(parts, resize),
        },
        rounds,
    )
    show("CPU time of a step of ResNet-18", figures, "32 pixels", "ms", 1000)


def step(parts: Assembly, clock: Clock) -> float:
    """Seconds of CPU time of one step on a batch of this clock."""
    setup, state = parts.setup, parts.state
    trained = [p for group in state.optimizer.param_groups for p in group["params"]]
    batch = next(parts.train.epoch(0))
    return taken(lambda: advance(setup, state, trained, setup.augment(setup.normalize(batch), clock), clock))


def resizing(parts: Assembly, resize: Resize) -> float:
    batch = parts.setup.normalize(next(parts.train.epoch(0)))
    return taken(lambda: resize.apply(batch, 10, FIRST))


def taken(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


if __name__ == "__main__":
    main()
