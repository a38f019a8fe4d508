"""A step with `--deterministic_ranks 4` and without, in 1, 2 and 4 processes of one thread each that talk over gloo.

    python -m tests.benchmarks.ranks               all networks
    python -m tests.benchmarks.ranks digits 2      those whose name contains the word, in 2 processes

Both are trained in the same processes in turn, by `fit`. Wall-clock time of a step, and CPU time of all processes:
where there are fewer cores than processes, the wall-clock time includes waiting for a core. CPU time does not show what
is lost because gradients are sent after the backward pass, where DistributedDataParallel sends them during it.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import multiprocessing

from core.common.ranks import ranks_here
from core.experiment import Experiment
from core.launch import Launch
from core.loading.images import Dataset, Images, Splits
from core.models import MLP, ResNet, SmallCNN
from core.optimizers import SGD
from core.training import distributed
from core.training.assemble import prepare
from core.training.loop import fit
from core.training.runtime import keep_freed_memory
from data import Digits
from tests.benchmarks.common import in_turn, show
from tests.support.processes import free_port

ROUNDS = 7
PLAIN, FIXED = "the same without it", "--deterministic_ranks 4"


class Noise(Dataset):
    """4,096 random images of 32 x 32 pixels for training, 8 for validation."""

    def load(self, root=None):
        pixels = np.random.default_rng(0).integers(0, 256, (4104, 32, 32, 3), dtype=np.uint8)
        images = Images(pixels, np.arange(len(pixels)), np.arange(len(pixels)) % 10)
        train, few = images.take(np.arange(4096)), images.take(np.arange(4096, 4104))
        return Splits("noise", tuple("abcdefghij"), train, few, few, "digest", "made up")


def declared(data: Dataset, model, batch_size: int) -> Experiment:
    """A declaration in fp32, which the option needs: `auto` would compare it with bf16 where the CPU is faster so."""
    optimizer = SGD(lr=0.01, momentum=0.9)
    return Experiment(data=data, model=model, optimizer=optimizer, epochs=1000, batch_size=batch_size, precision="fp32")


NETWORKS = {  # name: (declaration, steps of each measurement)
    "digits, SmallCNN 32-64, batches of 128": (declared(Digits(), SmallCNN(norm="group"), 128), 10),
    "32x32, SmallCNN 32-64, batches of 128": (declared(Noise(), SmallCNN(norm="group"), 128), 4),
    "32x32, MLP 3072-1024-10, batches of 512": (declared(Noise(), MLP(hidden=(1024,)), 512), 4),
    "32x32, ResNet-18, batches of 64": (declared(Noise(), ResNet(depth=18, stem="cifar", norm="group"), 64), 1),
}


@dataclass
class Timed:
    """A training; a call takes its next `steps` steps and returns the seconds of one: (wall clock, CPU time of all
    processes)."""

    experiment: Experiment
    launch: Launch
    steps: int

    def __post_init__(self) -> None:
        parts = prepare(self.experiment, self.launch, ranks_here())
        self.events = fit(parts.setup, parts.state, parts.train, parts.val)

    def __call__(self) -> tuple[float, float]:
        distributed.gathered(None)  # together
        wall, cpu, left = time.perf_counter(), time.process_time(), self.steps
        while left:
            left -= next(self.events).validation is None
        cpu = sum(distributed.gathered(time.process_time() - cpu))
        return (time.perf_counter() - wall) / self.steps, cpu / self.steps


def measure(rank: int, ranks: int, port: int, name: str) -> None:
    """In one of the processes; the first prints."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in own.items()} | {"MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    keep_freed_memory()  # as in a run
    experiment, steps = NETWORKS[name]
    with distributed.joined():
        launches = {PLAIN: Launch(device="cpu"), FIXED: Launch(device="cpu", deterministic_ranks=4)}
        figures = in_turn({kind: Timed(experiment, launch, steps) for kind, launch in launches.items()}, ROUNDS)
    if rank == 0:
        for place, unit in enumerate(("ms", "ms of CPU")):
            title = f"a step of {name}, {ranks} process{'es' * (ranks > 1)}"
            show(title, {kind: [each[place] for each in found] for kind, found in figures.items()}, PLAIN, unit, 1e3)


def main(words: list[str]) -> None:
    counts = [int(word) for word in words if word.isdecimal()] or [1, 2, 4]
    for name in NETWORKS:
        if all(word in name for word in words if not word.isdecimal()):
            for ranks in counts:
                multiprocessing.spawn(measure, (ranks, free_port(), name), ranks)


if __name__ == "__main__":
    main(sys.argv[1:])
