"""What mixup and CutMix add to a training step: the mixing itself, and a loss of soft targets in place of hard ones.

    python -m tests.benchmarks.mixing [ROUNDS]

ResNet-18 with a CIFAR stem, batch 128 of 32x32 images, one thread. What is added is far less than two steps differ by
chance: so it is timed by itself, many times in each round, against the whole step of that round. All of it is CPU time
of the one thread, which waits for nobody. To reach: at most 3 % of a step.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from core.augment import Augment, CutMix, Mixup, augmented
from core.context import Clock
from core.experiment import Experiment
from core.launch import Launch
from core.loading.batches import Batch
from core.loading.images import Dataset, Images, Splits
from core.losses import CrossEntropy
from core.metrics.classification import correct
from core.models import ResNet
from core.optimizers import SGD
from core.training.assemble import assemble
from core.training.loop import fit
from tests.benchmarks.common import in_turn, ratio, show

BATCH, CLASSES, TIMES = 128, 10, 30
STEP = "step"
CANDIDATES: dict[str, tuple[Augment, ...]] = {
    "hard targets": (),
    "mixup": (Mixup(alpha=0.2),),
    "CutMix": (CutMix(),),
}


class Noise(Dataset):
    """Random 32x32 color images."""

    def load(self, root=None):
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (100 * BATCH, 32, 32, 3), dtype=np.uint8)
        images = Images(pixels, np.arange(len(pixels)), random.integers(0, CLASSES, len(pixels)))
        few = images.take(np.arange(BATCH))
        return Splits("noise", tuple(map(str, range(CLASSES))), images, few, few, "", "")


EXPERIMENT = Experiment(data=Noise(), model=ResNet(stem="cifar"), optimizer=SGD(), batch_size=BATCH)


def mixed_and_judged(steps: tuple[Augment, ...], batch: Batch, logits: torch.Tensor) -> Callable[[], float]:
    """Seconds for what depends on the targets' kind: the steps, the loss there and back, and counting what is right."""
    loss = CrossEntropy()
    weights = torch.full((BATCH,), 1 / BATCH)

    def measure() -> float:
        began = time.thread_time()
        for _ in range(TIMES):
            logits.grad = None
            targets = augmented(steps, CLASSES, batch, Clock(0, 1, 1)).targets
            loss(logits, targets).backward(weights)
            correct(logits.detach(), targets)
        return (time.thread_time() - began) / TIMES

    return measure


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    torch.set_num_threads(1)
    parts = assemble(EXPERIMENT, Noise().load(), Launch(device="cpu"))
    batch = parts.setup.normalize(next(iter(parts.train.epoch(0))))
    logits = torch.randn(BATCH, CLASSES, requires_grad=True)
    events = fit(parts.setup, parts.state, parts.train, parts.val)

    def step() -> float:
        began = time.thread_time()
        next(events)
        return time.thread_time() - began

    alone = {name: mixed_and_judged(steps, batch, logits) for name, steps in CANDIDATES.items()}
    figures = in_turn({STEP: step} | alone, rounds)
    show(
        "CPU time: a step of ResNet-18 with hard targets, and what of a step depends on their kind",
        figures,
        STEP,
        "us",
        1e6,
    )
    added = {
        name: [ours - hard for ours, hard in zip(figures[name], figures["hard targets"], strict=True)]
        for name in CANDIDATES
        if CANDIDATES[name]
    }
    print("\nadded to a step of hard targets; to reach: at most 3 %")
    for name, seconds in added.items():
        share = ratio(added | {STEP: figures[STEP]}, name, STEP)
        print(f"  {name:<44}{statistics.median(seconds) * 1e6:>13,.0f} us{share:>21.3%}")


if __name__ == "__main__":
    main()
