"""Time of a step of a recorded `fit` against a bare PyTorch loop fed by the same Batches.

    python -m tests.benchmarks.loop

MLP 192-32-10, batch 128, one thread, a metric per step in the journal, the mirror running (its process counted apart:
it shares the machine, not the thread). Two tables: CPU time of the training thread, which a busy machine changes
little, and time. To reach: at most 1.10x of both, which is not reached.
"""

import os
import tempfile
import time
from pathlib import Path

os.environ["LABBOOK_HOME"] = tempfile.mkdtemp()

import numpy as np
import torch
from torch import nn

from core.experiment import Experiment
from core.launch import Launch
from core.loading.images import Dataset, Images, Splits
from core.models import MLP
from core.optimizers import SGD
from core.record.journal import Journal
from core.tracking.api import Mirror
from core.training.assemble import assemble
from core.training.loop import fit
from tests.benchmarks.common import in_turn, show

STEPS = 250
ROUNDS = 31
Times = tuple[float, float]  # seconds: CPU time of this thread, time


def now() -> Times:
    return time.thread_time(), time.perf_counter()


def per_step(began: Times) -> Times:
    cpu, real = (after - before for after, before in zip(now(), began, strict=True))
    return cpu / STEPS, real / STEPS


class Noise(Dataset):
    """Random 8x8 color images, enough for one epoch."""

    def load(self, root=None):
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (128 * STEPS, 8, 8, 3), dtype=np.uint8)
        images = Images(pixels, np.arange(len(pixels)), random.integers(0, 10, len(pixels)))
        few = images.take(np.arange(128))
        return Splits("noise", tuple("0123456789"), images, few, few, "", "")


EXPERIMENT = Experiment(
    data=Noise(), model=MLP(hidden=(32,)), optimizer=SGD(lr=0.01, momentum=0.9), epochs=1, batch_size=128
)


def main() -> None:
    torch.set_num_threads(1)
    parts = assemble(EXPERIMENT, Noise().load(), Launch(log_every=1, device="cpu"))

    def bare(fused: bool) -> Times:
        model = EXPERIMENT.model.build(parts.context)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=fused or None)
        began = now()
        for batch in parts.train.epoch(0):
            images, targets, *_ = parts.setup.normalize(batch)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), targets).backward()
            optimizer.step()
        return per_step(began)

    def recorded(journal: Journal | None) -> Times:
        built = assemble(EXPERIMENT, Noise().load(), Launch(log_every=1, device="cpu"))
        began = now()
        for event in fit(built.setup, built.state, built.train, built.val):
            if journal and event.metrics:
                journal.metrics(event.step, event.metrics)
            if event.step == STEPS:
                return per_step(began)
        raise AssertionError

    mirror = Mirror()
    mirror.start()

    def journalled() -> Times:
        return recorded(Journal(Path(tempfile.mkdtemp(dir=os.environ["LABBOOK_HOME"]))))

    def mirrored() -> Times:
        journal = Journal(Path(tempfile.mkdtemp(dir=os.environ["LABBOOK_HOME"])))
        journal.write("run", id=journal.folder.name, experiment="loop", name="loop", description="", parent=None, pid=0)
        mirror.follow(journal.folder)
        figure = recorded(journal)
        journal.close("FINISHED")
        return figure

    figures = in_turn(
        {
            "bare": lambda: bare(False),
            "bare, fused SGD": lambda: bare(True),
            "fit": lambda: recorded(None),
            "fit, journal": journalled,
            "fit, journal, mirror": mirrored,
        },
        ROUNDS,
    )
    for place, what in enumerate(("CPU time of the thread", "time")):
        each = {name: [times[place] for times in values] for name, values in figures.items()}
        show(f"a step of a tiny MLP, {what}", each, "bare", "us", 1e6)
    mirror.finish()


if __name__ == "__main__":
    main()
