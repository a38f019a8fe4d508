"""What checkpoints cost the training thread, and how soon a resumed run takes its first step.

    python -m tests.benchmarks.checkpoints

Cost: CPU time of the training thread for one checkpoint, as a share of 100 steps of ResNet-18 (batch 32, 32x32, one
thread, the writer beside it). To reach: at most 3 %.
First step: from the call to the first step of a run that decodes nothing but augments each image on the CPU, afresh and
resumed at 5 % and 95 % of an epoch of 50,000 images. To reach: at most 1.2x.
"""

import os
import tempfile
import time
from pathlib import Path

from core.runs.resume import resume

os.environ["LABBOOK_HOME"] = tempfile.mkdtemp()

import numpy as np
import torch

from core.augment import Albumentation
from core.experiment import Experiment
from core.launch import Launch
from core.loading.images import Dataset, Images, Splits
from core.models import MLP, ResNet
from core.optimizers import SGD
from core.runs import train as running
from core.runs import trainer
from core.runs.trained import Run
from core.training.assemble import assemble, belongs
from core.training.checkpoint import CHECKPOINTS, Saver, save
from core.training.loop import fit
from tests.benchmarks.common import in_turn, show

QUIET = Launch(device="cpu", mlflow=False, threads=1, checkpoint_every="1000000")


class Noise(Dataset):
    """Random 32x32 color images."""

    count: int = 50_000

    def load(self, root=None):
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (self.count, 32, 32, 3), dtype=np.uint8)
        images = Images(pixels, np.arange(self.count), random.integers(0, 10, self.count))
        few = images.take(np.arange(128))
        return Splits("noise", tuple("0123456789"), images, few, few, "", "")


def cost(rounds: int = 5, steps: int = 10) -> None:
    torch.set_num_threads(1)
    experiment = Experiment(data=Noise(count=3200), model=ResNet(stem="cifar"), optimizer=SGD(), batch_size=32)
    parts = assemble(experiment, experiment.data.load(), QUIET)
    saver = Saver(Path(tempfile.mkdtemp()), "100", belongs(parts))
    events = fit(parts.setup, parts.state, parts.train, parts.val)
    next(events)

    def hundred_steps() -> float:
        began = time.thread_time()
        for _ in range(steps):
            next(events)
        return (time.thread_time() - began) * 100 / steps

    def checkpoint() -> float:
        began = time.thread_time()
        saver.save(parts.state)
        taken = time.thread_time() - began
        saver.wait()
        return taken

    with saver:
        figures = in_turn({"100 steps": hundred_steps, "one checkpoint": checkpoint}, rounds)
    show("CPU time of the training thread, ResNet-18", figures, "100 steps", "ms", 1e3)
    size = sum(path.stat().st_size for path in saver.folder.glob("*.checkpoint")) / len(list(saver.folder.iterdir()))
    print(f"  a checkpoint is {size / 1e6:.0f} MB")


class Reached(KeyboardInterrupt):
    """The first step is done."""


def first_step(rounds: int = 5) -> None:
    flip = Albumentation(name="HorizontalFlip", arguments={"p": 0.5})
    experiment = Experiment(
        data=Noise(), model=MLP(hidden=(64,)), augment=(flip,), optimizer=SGD(lr=0.01), batch_size=100, epochs=1
    )
    steps, fitted = 500, trainer.fit_cached

    def until(step: int):
        def stepped(*arguments):
            for event in fitted(*arguments):
                yield event
                if event.step == step:
                    raise Reached

        return stepped

    def interrupted(step: int) -> Run:
        """A run that stopped in its first step, with a checkpoint that says it stood at `step`."""
        trainer.fit_cached = until(1)
        try:
            running.train(experiment, QUIET, "bench")
        except Reached:
            run = next(Run.of_experiment("bench"))
        parts = assemble(experiment, experiment.data.load(), QUIET)
        parts.state.step = step
        save(run.folder / CHECKPOINTS, step, parts.state.snapshot(), belongs(parts))
        return run

    def fresh() -> float:
        trainer.fit_cached = until(1)
        return timed(lambda: running.train(experiment, QUIET, "bench"))

    def resumed(part: float):
        def measure() -> float:
            run = interrupted(int(part * steps))
            trainer.fit_cached = until(int(part * steps) + 1)
            return timed(lambda: resume(run))

        return measure

    def timed(action) -> float:
        began = time.perf_counter()
        try:
            action()
        except Reached:
            return time.perf_counter() - began
        raise AssertionError

    figures = in_turn({"fresh": fresh, "resumed at 5 %": resumed(0.05), "resumed at 95 %": resumed(0.95)}, rounds)
    show("to the first step of an epoch of 50,000 augmented images", figures, "fresh", "ms", 1e3)


if __name__ == "__main__":
    cost()
    first_step()
