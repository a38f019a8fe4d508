"""Peak resident memory of a CIFAR run against a bare loop on the same tensors. To reach: at most 1.15x.

    python -m tests.benchmarks.memory ROOT        ROOT: CIFAR-10 in any form that --root takes

ResNet-18, batch 128, six steps and one validation batch each, every figure of a process of its own. The mirror's
process, which a run starts besides, is not counted.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS, STEPS, BATCH = 3, 6, 128


def bare(root: str) -> None:
    """The hand-written loop, on the same images in the same memory map."""
    import torch
    from torch import nn

    from core.augment import HorizontalFlip, RandomCrop, augmented
    from core.context import Clock, Context
    from core.loading.batches import Plan
    from core.loading.loader import feed
    from core.loading.normalize import mean_and_std, normalizer
    from core.models import ResNet
    from data import Cifar10

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    cpu = torch.device("cpu")
    splits = Cifar10().load(Path(root)).limited(STEPS * BATCH)
    mean, std = mean_and_std(splits.train)
    batches, normalize = feed(Plan(len(splits.train), BATCH), splits.train, cpu), normalizer(mean, std, cpu)
    context = Context(splits.classes, (), (32, 32, 3), 0, 1, 1, BATCH, cpu)
    model = ResNet(depth=18, stem="cifar").build(context).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for batch in batches.epoch(0):
        images, targets, *_ = augmented((RandomCrop(), HorizontalFlip()), 10, normalize(batch), Clock(0, 1, 1))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), targets, label_smoothing=0.1).backward()
        optimizer.step()
    model.eval()
    with torch.inference_mode():
        for batch in feed(Plan(len(splits.val), 512, shuffled=False), splits.val, cpu).epoch(0):
            model(normalize(batch).images)


def recorded(root: str) -> None:
    from core import Launch, train
    from experiments.cifar_resnet import EXPERIMENT

    train(EXPERIMENT.but({"epochs": 1, "batch_size": BATCH, "limit": STEPS * BATCH}), Launch(root=Path(root)))


def peak(which: str, root: str) -> float:
    """Peak resident memory of a process that does this, in MB."""
    code = (
        "import resource; from tests.benchmarks import memory\n"
        f"memory.{which}({root!r})\n"
        "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(next(line for line in done.stdout.splitlines() if line.startswith("PEAK")).split()[1])


def main() -> None:
    from tests.benchmarks.common import in_turn, show

    root = str(Path(sys.argv[1]).absolute())
    os.environ["LABBOOK_HOME"] = tempfile.mkdtemp()
    figures = in_turn({"bare": lambda: peak("bare", root), "run": lambda: peak("recorded", root)}, ROUNDS)
    show("peak resident memory", figures, "bare", "MB")


if __name__ == "__main__":
    main()
