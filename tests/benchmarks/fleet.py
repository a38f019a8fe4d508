"""CPU time of a step of one seed, trained together with others (`--seeds N --together`) and alone.

    python -m tests.benchmarks.fleet               all networks
    python -m tests.benchmarks.fleet SmallCNN      those whose name contains the word

`fit_together` of 8 and of 32 seeds against `fit` of one, and of 32 trials that differ in learning rate and label
smoothing (`search --at_once 32`), one thread: MLPs on random 8x8 images in batches of 128, small CNNs on the digits in
batches of 64. The advice of `--together` goes by the FLOPs per image in the title of each table.
"""

import itertools
import sys
import time

import torch

from core.experiment import Experiment
from core.launch import Launch
from core.models import MLP, SmallCNN, forward_flops
from core.optimizers import SGD
from core.training.assemble import assemble
from core.training.fleet import fit_together
from core.training.loop import fit
from core.training.runtime import keep_freed_memory
from data import Digits
from tests.benchmarks.common import in_turn, show
from tests.benchmarks.loop import EXPERIMENT, Noise

ROUNDS = 7
MLPS = EXPERIMENT.but({"epochs": 100})
DIGITS = Experiment(data=Digits(), model=SmallCNN(), optimizer=SGD(lr=0.01), epochs=1000, batch_size=64)
NETWORKS = {  # name: (declaration, steps of each measurement)
    "MLP 192-32-10": (MLPS, 20),
    "MLP 192-32-10, dropout": (MLPS.but({"model.dropout": 0.2}), 20),
    "MLP 192-256-10": (MLPS.but({"model": MLP(hidden=(256,))}), 10),
    "MLP 192-1024-10": (MLPS.but({"model": MLP(hidden=(1024,))}), 4),
    "SmallCNN 4-8": (DIGITS.but({"model": SmallCNN(widths=(4, 8))}), 17),
    "SmallCNN 8-16": (DIGITS.but({"model": SmallCNN(widths=(8, 16))}), 17),
    "SmallCNN 16-32": (DIGITS.but({"model": SmallCNN(widths=(16, 32))}), 6),
    "SmallCNN 32-64": (DIGITS, 3),
}


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()  # as in a run
    loaded = {Noise: Noise().load(), Digits: Digits().load(None)}
    for name in NETWORKS:
        if all(word in name for word in words):
            measure(name, *NETWORKS[name], loaded[type(NETWORKS[name][0].data)])


def measure(name: str, experiment: Experiment, steps: int, splits) -> None:
    *rest, solo = (assemble(experiment.but({"seed": seed}), splits, Launch(device="cpu")) for seed in range(41))
    numbers = ({"optimizer.lr": 0.01 / n, "loss.label_smoothing": n / 100} for n in range(1, 33))
    apart = [assemble(experiment.but(each), splits, Launch(device="cpu")) for each in numbers]
    alone = fit(solo.setup, solo.state, solo.train, solo.val)
    few, many, trials = (fit_together(dict(enumerate(each))) for each in (rest[:8], rest[8:], apart))
    figures = in_turn(
        {
            "alone": lambda: timed(alone, 4 * steps),
            "8 together": lambda: timed(few, steps) / 8,
            "32 together": lambda: timed(many, steps) / 32,
            "32 trials at once": lambda: timed(trials, steps) / 32,
        },
        ROUNDS,
    )
    flops = forward_flops(solo.state.model, solo.context.image_shape)
    show(f"a step of one seed, {name}, {flops:,} FLOPs per image", figures, "alone", "us of CPU", 1e6)


def timed(events, steps: int) -> float:
    """CPU time of a step."""
    began = time.thread_time()
    for _ in itertools.islice(events, steps):
        pass
    return (time.thread_time() - began) / steps


if __name__ == "__main__":
    main(sys.argv[1:])
