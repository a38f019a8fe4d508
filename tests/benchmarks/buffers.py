"""What it costs that a step can be taken again when memory runs out: a copy of the buffers before each step.

    python -m tests.benchmarks.buffers

CPU time of one thread, of the copy and of the step it belongs to, in turn. To reach: at most 1 % of the step.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from core.experiment import Experiment
from core.launch import Launch
from core.models import MLP, Model, ResNet, SmallCNN
from core.optimizers import SGD
from core.schedules import Clock
from core.training.assemble import assemble
from core.training.step import advance
from tests.benchmarks.common import in_turn, show
from tests.gpu.bench import Noise

ROUNDS, COPIES = 7, 100
NETWORKS: dict[str, tuple[Model, int, int]] = {  # network, size of images, batch
    "MLP 192-32-10": (MLP(hidden=(32,)), 8, 128),
    "small CNN, 8x8, batch 64": (SmallCNN(widths=(32, 64)), 8, 64),
    "ResNet-18, 32x32, batch 16": (ResNet(depth=18, stem="cifar"), 32, 16),
}


def measured(model: Model, size: int, batch: int) -> dict[str, Callable[[], float]]:
    data = Noise(images=2 * batch, size=size)
    experiment = Experiment(data=data, model=model, optimizer=SGD(lr=1e-6, momentum=0.9), batch_size=batch)
    parts = assemble(experiment, data.load(), Launch(device="cpu"))
    ready = parts.setup.normalize(next(iter(parts.train.epoch(0))))
    trained = list(parts.state.model.parameters())
    parts.state.trained.train()

    def step() -> float:
        began = time.thread_time()
        advance(parts.setup, parts.state, trained, ready, Clock(0, 2, 1))
        return time.thread_time() - began

    def copy() -> float:
        began = time.thread_time()
        for _ in range(COPIES):
            parts.state.keep_buffers()
        return (time.thread_time() - began) / COPIES

    return {"step, with the copy": step, "copy": copy}


def main() -> None:
    torch.set_num_threads(1)
    for name, declared in NETWORKS.items():
        show(name, in_turn(measured(*declared), ROUNDS), "step, with the copy", "us", 1e6)


if __name__ == "__main__":
    main()
